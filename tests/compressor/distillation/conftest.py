"""Toy trainings of every task type, on single texts and on pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from compressor.data.splits import Split, TaskData, training_texts
from compressor.distillation.plan import build_plan
from compressor.distillation.presets import parse_method_text
from compressor.distillation.trainer import DistillationTrainer
from compressor.distillation.training import TrainingJob, train
from compressor.models.initialise import pretrained_model
from compressor.recipe import TrainingSettings
from serving.manifest import TaskSpec

FAST = TrainingSettings(epochs=2, learning_rate=1e-3, batch_size=8, dtype="fp32", device="cpu", threads=1)
SEVERAL = FAST.model_copy(update={"learning_rate": 3e-3, "batch_size": 16})


@pytest.fixture
def fast() -> TrainingSettings:
    """Two epochs of batches of eight rows, fp32 on one thread."""
    return FAST


@pytest.fixture
def make_data(toy_data: TaskData, make_rows: Callable[..., list[dict[str, object]]]) -> Callable[..., TaskData]:
    """A factory: (task type, pairs) -> 48, 12 and 12 rows, and 12 unlabelled ones."""
    tasks = {
        "classification": toy_data.task,
        "multilabel": TaskSpec(name="flags", type="multilabel", labels=("angry", "polite"), metric="micro_f1"),
        "regression": TaskSpec(name="urgency", type="regression", metric="pearson", range=(0.0, 5.0)),
    }

    def labels(task: TaskSpec, rows: list[dict[str, Any]]) -> np.ndarray:
        if task.type == "classification":
            return np.array([task.labels.index(row["topic"]) for row in rows])
        if task.type == "multilabel":
            return np.array([[label in row["flags"] for label in task.labels] for row in rows], dtype=np.int64)
        return np.array([row["urgency"] for row in rows])

    def split(task: TaskSpec, rows: list[dict[str, Any]], *, pairs: bool) -> Split:
        texts = [tuple(row["text"].split(" ", 1)) if pairs else (row["text"],) for row in rows]
        return Split(texts, labels(task, rows))

    def make(kind: str = "classification", *, pairs: bool = False) -> TaskData:
        task = tasks[kind]
        parts = {name: split(task, make_rows(number, seed), pairs=pairs) for name, number, seed in SPLITS}
        parts["unlabelled"] = dataclasses.replace(parts["unlabelled"], labels=None)
        return TaskData(task, parts, ("text", "other") if pairs else ("text",))

    return make


SPLITS = (("train", 48, 1), ("validation", 12, 2), ("test", 12, 3), ("unlabelled", 12, 4))


@pytest.fixture
def job(
    checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, toy_data: TaskData
) -> Callable[..., TrainingJob]:
    """A factory: (methods or their text, settings) -> a training job, on the toy task unless other data is given."""
    folder = str(checkpoint())

    def make(
        methods: dict[str, dict[str, Any]] | str,
        settings: TrainingSettings = FAST,
        *,
        dropout: bool = True,
        layers: int = 1,
        data: TaskData = toy_data,
        seed: int = 0,
    ) -> TrainingJob:
        model = pretrained_model(folder, [data.task], layers=layers, seed=0)
        if not dropout:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        outputs = data.task.num_outputs
        targets = np.random.default_rng(0).normal(size=(len(training_texts(data)), outputs)).astype(np.float32)
        chosen = parse_method_text(methods) if isinstance(methods, str) else methods
        return TrainingJob(
            model=model,
            tokenizer=tokenizer,
            data={data.task.name: data},
            targets={data.task.name: targets},
            plan=build_plan(chosen, patience=settings.early_stopping),
            settings=settings,
            max_length=32,
            seed=seed,
            label="toy",
        )

    return make


@pytest.fixture
def several(
    checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, make_data: Callable[..., TaskData]
) -> Callable[..., TrainingJob]:
    """A factory: (methods as text, settings) -> a job of a classification, a multilabel and a regression task."""
    folder = str(checkpoint())

    def make(text: str, settings: TrainingSettings = SEVERAL, *, dropout: bool = True) -> TrainingJob:
        data = {made.task.name: made for made in map(make_data, ("classification", "multilabel", "regression"))}
        model = pretrained_model(folder, [part.task for part in data.values()], layers=2, seed=0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout) and not dropout:
                module.p = 0.0
        return TrainingJob(
            model=model,
            tokenizer=tokenizer,
            data=data,
            targets={name: random_targets(part) for name, part in data.items()},
            plan=build_plan(parse_method_text(text), patience=None),
            settings=settings,
            max_length=32,
            seed=0,
            label="toy",
        )

    return make


def random_targets(data: TaskData) -> np.ndarray:
    shape = (len(training_texts(data)), data.task.num_outputs)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


class Caught(Exception):
    """The training is stopped here."""


@pytest.fixture
def trainer_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainingJob], DistillationTrainer]:
    """A factory: job -> its trainer with an optimizer, before the first step."""

    def make(job: TrainingJob) -> DistillationTrainer:
        caught: list[DistillationTrainer] = []

        def stop(self: DistillationTrainer, _folder: Path) -> None:
            self.create_optimizer()
            caught.append(self)
            raise Caught

        with monkeypatch.context() as patch:
            patch.setattr(DistillationTrainer, "resume_or_start", stop)
            with pytest.raises(Caught):
                train(job, tmp_path)
        return caught[0]

    return make
