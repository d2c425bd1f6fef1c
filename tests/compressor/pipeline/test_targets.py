"""What the teachers of a task say of its training rows: which of them is asked, in which tokens, in which order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compressor.data.splits import TaskData, training_texts
from compressor.models.teacher import teacher_logits
from compressor.pipeline import learning, targets
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.learning import TARGETS_FILE, TrainingContext
from compressor.pipeline.stages import StageStore, needed_for, run_stages
from compressor.pipeline.teacher_stages import cost_of_folds
from compressor.recipe import Recipe
from serving.manifest import TaskSpec

TRAINING = {"epochs": 1, "batch_size": 64, "dtype": "fp32", "threads": 1}
LABELS = ("topic", "urgency", "flags")
CERTAIN, GUESSED = 20.0, 0.0

Make = Callable[..., Pipeline]


@pytest.fixture
def make(toy_file: Path, checkpoint: Callable[..., Path], tmp_path: Path) -> Make:
    """A pipeline over the toy data with some tasks, their own settings and keys of the recipe's first level."""
    model = str(checkpoint())

    def make(labels: tuple[str, ...] = LABELS, own: Mapping[str, Any] | None = None, **changes: Any) -> Pipeline:
        tasks: dict[str, Any] = {label: {"data": str(toy_file), "text": "text", "label": label} for label in labels}
        for task, settings in (own or {}).items():
            tasks[task] |= settings
        values = {"name": "toy", "tasks": tasks, "student": {"layers": 1}, "training": TRAINING, "max_length": 32}
        teacher = {"model": model, **changes.pop("teacher", {})}
        return Pipeline(
            Recipe.model_validate({**values, "teacher": teacher, **changes}), StageStore(tmp_path / "stages")
        )

    return make


def targets_of(pipeline: Pipeline, task: str) -> np.ndarray:
    """The finished targets of one task."""
    stage = pipeline.targets[task]
    run_stages(pipeline.store, needed_for(stage))
    found: np.ndarray = np.load(pipeline.path(stage) / TARGETS_FILE)
    return found


def data_of(pipeline: Pipeline, task: str) -> TaskData:
    run_stages(pipeline.store, [pipeline.data])
    return pipeline._task_data(task)


@dataclass(frozen=True)
class Memory:
    """What memorising teachers were trained on and asked.

    Attributes:
        trained: the tasks of every training.
        asked: the stage of every teacher that was asked, with the number of texts.
    """

    trained: list[tuple[str, ...]] = field(default_factory=list)
    asked: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture
def memorising(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Teachers that know every text they were trained on, by whichever task, and nothing else; who was trained."""
    memory = Memory()

    def train(
        folder: Path, data: Mapping[str, TaskData], _model: str, _context: TrainingContext, *, start: Path | None
    ) -> None:
        assert start is None
        texts = [text for task in data.values() for text in task.splits["train"].texts]
        (folder / "memory.json").write_text(json.dumps(texts))
        memory.trained.append(tuple(data))

    def ask(folder: Path, texts: list[tuple[str, ...]], task: TaskSpec, **_options: Any) -> np.ndarray:
        memory.asked.append((folder.name.rpartition("-")[0], len(texts)))
        known = {tuple(text) for text in json.loads((folder / "memory.json").read_text())}
        logits = np.full((len(texts), task.num_outputs), GUESSED, dtype=np.float32)
        logits[:, 0] = [CERTAIN if text in known else GUESSED for text in texts]
        return logits

    monkeypatch.setattr(learning, "train_teacher", train)
    monkeypatch.setattr(targets, "teacher_logits", ask)
    return memory


def certainty(logits: np.ndarray) -> np.ndarray:
    """How far the outputs of every row are from knowing nothing, [rows]; above 0 if any member of a vote knows it."""
    found: np.ndarray = np.ptp(logits, axis=1) if logits.shape[1] > 1 else np.abs(logits[:, 0])
    return found


@pytest.mark.parametrize("multitask", [False, True], ids=["a teacher per task", "one for all"])
@pytest.mark.parametrize("ensemble", [1, 2])
def test_no_rows_target_comes_from_a_model_that_has_seen_it(
    make: Make, memorising: Memory, multitask: bool, ensemble: int
) -> None:
    """Catches near one-hot targets of a teacher that is asked about its own training rows."""
    plain = {"multitask": multitask, "ensemble": ensemble}
    for task in LABELS:
        assert (certainty(targets_of(make(teacher=plain), task)) > 10).all()  # it has seen them all
    assert len(memorising.trained) == ensemble * (1 if multitask else 3)
    memorising.trained.clear()
    for task in LABELS:
        assert (certainty(targets_of(make(teacher={**plain, "folds": 3}), task)) < 1e-6).all()
    assert len(memorising.trained) == 3 * ensemble * (1 if multitask else 3)  # and the ordinary teachers were there
    assert set(memorising.trained) == ({LABELS} if multitask else {(task,) for task in LABELS})


def test_texts_without_label_are_answered_by_the_ordinary_teacher(
    make: Make, memorising: Memory, tmp_path: Path
) -> None:
    """Catches fewer training rows for texts that no teacher has seen; and a copy of a training row that is known."""
    log = tmp_path / "log.jsonl"
    (copied,) = data_of(make(("topic",)), "topic").splits["train"].texts[3]
    log.write_text("\n".join(json.dumps({"text": text}) for text in ("new one", copied, "new two")) + "\n")
    pipeline = make(("topic",), own={"topic": {"unlabelled": str(log)}}, teacher={"folds": 2})
    found = targets_of(pipeline, "topic")
    data = data_of(pipeline, "topic")
    texts = training_texts(data)
    num_train = len(data.splits["train"])
    ordinary = [text for text in texts[num_train:] if text[0].startswith("new")]
    assert len(texts) == num_train + 3
    assert dict(memorising.asked)["teacher-topic"] == len(ordinary) == 2
    assert sum(number for _, number in memorising.asked) == len(texts)
    assert (certainty(found) < 1e-6).all()  # the copy of a training row too


def test_evaluation_is_by_the_ordinary_teacher(make: Make) -> None:
    """Catches a teacher that is judged by what its folds' teachers say."""
    plain, folded = make(teacher={}), make(teacher={"folds": 2})
    for task in LABELS:
        assert plain.figures[f"teacher-{task}"].key == folded.figures[f"teacher-{task}"].key
        assert plain.targets[task].key != folded.targets[task].key
    assert plain.teachers["topic"].key == folded.teachers["topic"].key


def test_what_folds_cost_is_said_until_it_is_paid(make: Make, memorising: Memory) -> None:
    """Catches a night of trainings that nobody was told of."""
    pipeline = make(teacher={"folds": 3, "ensemble": 2})
    stages = needed_for(*pipeline.targets.values())
    said = cost_of_folds(stages, pipeline.store)
    assert said is not None
    assert "18 further teachers" in said  # three tasks, two members, three folds
    targets_of(pipeline, "topic")
    assert "12 further teachers" in str(cost_of_folds(stages, pipeline.store))
    for task in LABELS:
        targets_of(pipeline, task)
    assert cost_of_folds(stages, pipeline.store) is None
    assert cost_of_folds(needed_for(*make().targets.values()), pipeline.store) is None


def shuffled_checkpoint(checkpoint: Callable[..., Path], architecture: str, labels: tuple[str, ...]) -> Path:
    """A toy checkpoint whose tokenizer numbers the words the other way round."""
    folder = checkpoint(architecture, labels)
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text())
    vocabulary = description["model"]["vocab"]
    special = {word: place for word, place in vocabulary.items() if word.startswith("[")}
    words = [word for word in vocabulary if word not in special]
    description["model"]["vocab"] = {**special, **dict(zip(words, range(len(vocabulary) - 1, 3, -1), strict=True))}
    path.write_text(json.dumps(description))
    Tokenizer.from_file(str(path))
    return folder


def asked_by_hand(folder: Path, texts: list[tuple[str, ...]]) -> np.ndarray:
    """What transformers alone says, text by text."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        rows = [model(**tokenizer(text[0], return_tensors="pt")).logits[0].numpy() for text in texts]
    return np.stack(rows)


def test_every_teacher_reads_its_own_tokens_and_answers_in_the_datas_order(
    make: Make, checkpoint: Callable[..., Path]
) -> None:
    """Catches a teacher that is fed another one's token ids, or whose outputs are matched by position."""
    labels = {
        "topic": ("delivery", "other", "account", "billing"),
        "flags": ("polite", "angry"),
    }  # one more, not in order
    first = checkpoint("bert", labels["topic"])
    second = shuffled_checkpoint(checkpoint, "distilbert", labels["flags"])
    own = {
        "topic": {"teacher": {"model": str(first), "train": False}},
        "flags": {"teacher": {"model": str(second), "train": False}},
    }
    pipeline = make(("topic", "flags"), own=own)
    for task, folder in (("topic", first), ("flags", second)):
        found, data = targets_of(pipeline, task), data_of(pipeline, task)
        columns = [labels[task].index(name) for name in data.task.labels]
        assert columns != sorted(columns)
        by_hand = asked_by_hand(folder, training_texts(data)[:20])[:, columns]
        np.testing.assert_allclose(found[:20], by_hand, atol=2e-5)
        assert by_hand.std() > 1e-3


def test_a_multi_task_ensemble_answers_every_task_by_its_own_head(make: Make) -> None:
    """Catches one head asked for all tasks, and an ensemble of which one member is asked."""
    pipeline = make(teacher={"multitask": True, "ensemble": 2})
    members = pipeline.teacher_members["topic"]
    assert pipeline.teacher_members["flags"] == members
    for task in LABELS:
        found = targets_of(pipeline, task)
        assert found.shape == (
            len(training_texts(data_of(pipeline, task))),
            {"topic": 3, "urgency": 1, "flags": 2}[task],
        )
    texts = training_texts(data_of(pipeline, "topic"))

    topic = data_of(pipeline, "topic").task
    each = [softmax(teacher_logits(pipeline.path(stage), texts, topic, max_length=32), axis=1) for stage in members]
    assert not np.allclose(each[0], each[1])
    np.testing.assert_allclose(softmax(targets_of(pipeline, "topic"), axis=1), np.mean(each, axis=0), atol=1e-6)
