"""Examples per second of our student training against the usual distillation loop, at equal validation metric.

Both start from the same files (teacher, initial student of the round's seed, texts) and end with a trained
student on disk, with the same batch size, epochs, learning rate schedule, loss and validation after every epoch.
The clock runs over everything between: loading, tokenising, and for ours the calibration of the dtype and the
teacher's targets. The usual loop is what tutorials teach: the teacher answers in every step, batches in random
order padded to their longest text (`DataCollatorWithPadding`), fp32, AdamW (torch's fused one) over all weights.

A round has one seed and runs its arms one after the other, in an order that rotates. The main rounds compare the two
loops and their students; the part rounds, on fewer rows, take our savings away one at a time and show
the usual loop padded to the full length beside it.

    python benchmarks/training.py --work runs/training --output runs/training.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    get_linear_schedule_with_warmup,
)

from compressor.data.batches import Collator
from compressor.data.splits import TRAIN, VALIDATION, TaskData
from compressor.distillation.plan import build_plan
from compressor.distillation.precision import limit_threads
from compressor.distillation.presets import KdKnobs
from compressor.distillation.training import DECISION_FILE, TrainingJob, train
from compressor.models.checkpoint import TASKS_FILE, load_checkpoint, save_checkpoint
from compressor.models.initialise import load_tokenizer, pretrained_model
from compressor.models.task_model import TaskModel
from compressor.models.teacher import teacher_logits
from compressor.pipeline.learning import load_data
from compressor.pipeline.run import RunFolder
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import announce
from compressor.recipe import Recipe
from compressor.recipe_file import load_recipe
from compressor.recipes import DEMO
from compressor.tasks.registry import TASKS
from export.statistics import bootstrap_interval, paired_ratio
from serving.answers import decide
from serving.host import available_cpus, describe_host

GOAL = 2.0
USUAL, OURS, PADDED = "usual loop", "ours", "usual loop, padded to the full length"
QUICK = {"rows": 48, "epochs": 1, "rounds": 1, "part_rows": 32, "part_rounds": 1}


@dataclass(frozen=True)
class Ground:
    """What all arms of a round share.

    Attributes:
        data: one classification task.
        teacher: its fine-tuned checkpoint.
        student: the initial student.
        recipe: for the training settings, the loss and the length.
        seed: of data order and dropout.
    """

    data: TaskData
    teacher: Path
    student: Path
    recipe: Recipe
    seed: int

    @property
    def knobs(self) -> KdKnobs:
        """Weight of the soft loss and temperature."""
        return KdKnobs(**self.recipe.method["kd"])


Arm = Callable[[Ground, Path], None]
"""Trains the ground's student and leaves it in the folder."""


def train_ours(ground: Ground, folder: Path, *, dtype: str | None = None, asks_every_step: bool = False) -> None:
    """Targets once, then our training; optionally with one of its savings taken away."""
    task = ground.data.task
    settings = ground.recipe.training.model_copy(update={"dtype": dtype} if dtype else {})
    targets = {} if asks_every_step else {task.name: _targets(ground)}
    job = TrainingJob(
        model=load_checkpoint(ground.student),
        tokenizer=load_tokenizer(str(ground.student)),
        data={task.name: ground.data},
        targets=targets,
        plan=build_plan(ground.recipe.method, patience=None),
        settings=settings,
        max_length=ground.recipe.max_length,
        seed=ground.seed,
        label=OURS,
    )
    with ExitStack() as changes:
        if asks_every_step:
            asking = partial(AskingCollator, teacher=load_checkpoint(ground.teacher))
            changes.enter_context(patch("compressor.distillation.training.Collator", asking))
        train(job, folder)


def train_ours_in_random_order(ground: Ground, folder: Path) -> None:
    """Ours without length groups: a group of one batch is a random batch."""
    with patch("compressor.data.batches._BATCHES_PER_GROUP", 1):
        train_ours(ground, folder)


def train_ours_on_all_rows(ground: Ground, folder: Path) -> None:
    """Ours with every row of the word embeddings in the optimizer."""
    with patch("compressor.distillation.training.train_used_rows", lambda *_args, **_options: lambda: None):
        train_ours(ground, folder)


@dataclass(frozen=True, kw_only=True)
class AskingCollator(Collator):
    """Asks the teacher for every batch anew where the real one looks its logits up."""

    teacher: TaskModel

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch with the teacher's logits as its targets."""
        batch = super().__call__(examples)
        with torch.no_grad():
            logits = self.teacher(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
        return {**batch, "targets": logits}


def _targets(ground: Ground) -> np.ndarray:
    with limit_threads(available_cpus()):
        texts = ground.data.splits[TRAIN].texts
        return teacher_logits(ground.teacher, texts, ground.data.task, max_length=ground.recipe.max_length)


def train_usual(ground: Ground, folder: Path, *, padding: bool | str = True) -> None:
    """The loop of the tutorials; `padding` as `DataCollatorWithPadding` takes it."""
    settings, generator = ground.recipe.training, torch.Generator().manual_seed(ground.seed)
    torch.manual_seed(ground.seed)
    tokenizer = AutoTokenizer.from_pretrained(ground.student)
    student = AutoModelForSequenceClassification.from_pretrained(ground.student, dtype=torch.float32)
    teacher = AutoModelForSequenceClassification.from_pretrained(ground.teacher, dtype=torch.float32).eval()
    collator = DataCollatorWithPadding(tokenizer, padding=padding, max_length=ground.recipe.max_length)
    features = {split: _features(ground, tokenizer, split) for split in (TRAIN, VALIDATION)}
    loader: DataLoader[Any] = DataLoader(
        features[TRAIN], settings.batch_size, shuffle=True, generator=generator, collate_fn=collator
    )
    steps = settings.epochs * len(loader)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup * steps), steps)
    with limit_threads(available_cpus()):
        for _ in range(settings.epochs):
            student.train()
            for batch in loader:
                _distillation_loss(student, teacher, batch, ground.knobs).backward()
                torch.nn.utils.clip_grad_norm_(student.parameters(), settings.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            _validate(student, DataLoader(features[VALIDATION], settings.batch_size, collate_fn=collator))
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copyfile(ground.student / TASKS_FILE, folder / TASKS_FILE)


def _features(ground: Ground, tokenizer: Any, split: str) -> list[dict[str, Any]]:
    rows = ground.data.splits[split]
    columns = [list(column) for column in zip(*rows.texts, strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=ground.recipe.max_length)
    labels = () if rows.labels is None else rows.labels.tolist()
    return [
        {"labels": label, **{name: encoded[name][row] for name in encoded}} for row, label in enumerate(labels)
    ]


def _distillation_loss(student: Any, teacher: Any, batch: Mapping[str, Tensor], knobs: KdKnobs) -> Tensor:
    output = student(**batch)
    with torch.no_grad():
        target = teacher(**{name: value for name, value in batch.items() if name != "labels"}).logits
    soft = functional.kl_div(
        functional.log_softmax(output.logits / knobs.temperature, dim=-1),
        functional.softmax(target / knobs.temperature, dim=-1),
        reduction="batchmean",
    )
    loss: Tensor = knobs.alpha * knobs.temperature**2 * soft + (1 - knobs.alpha) * output.loss
    return loss


def _validate(student: Any, loader: DataLoader[Any]) -> float:
    """Accuracy, as a usual loop looks at it after each epoch; costs what it costs."""
    student.eval()
    with torch.no_grad():
        hits = [student(**batch).logits.argmax(-1) == batch["labels"] for batch in loader]
    return float(torch.cat(hits).float().mean())


MAIN_ARMS: dict[str, Arm] = {OURS: train_ours, USUAL: train_usual}
PART_ARMS: dict[str, Arm] = {
    OURS: train_ours,
    "ours without bf16": partial(train_ours, dtype="fp32"),
    "ours without leaving out unused embeddings": train_ours_on_all_rows,
    "ours without length groups": train_ours_in_random_order,
    "ours without cached targets": partial(train_ours, asks_every_step=True),
    USUAL: train_usual,
    PADDED: partial(train_usual, padding="max_length"),
}


def run_rounds(arms: Mapping[str, Arm], grounds: Sequence[Ground], scratch: Path) -> list[dict[str, Any]]:
    """Every arm on every ground, one ground after the other; one row per training."""
    rows: list[dict[str, Any]] = []
    for number, ground in enumerate(grounds):
        for name in rotated(list(arms), number):
            with tempfile.TemporaryDirectory(dir=scratch) as place:
                folder = Path(place)
                started = time.perf_counter()
                arms[name](ground, folder)
                seconds = time.perf_counter() - started
                examples = len(ground.data.splits[TRAIN]) * ground.recipe.training.epochs
                decision = read_json(folder / DECISION_FILE) if (folder / DECISION_FILE).is_file() else {}
                row = {"arm": name, "round": number, "seconds": seconds, "examples_per_second": examples / seconds}
                rows.append(row | {"dtype": decision.get("dtype", "fp32"), "hits": _hits(ground, folder)})
                announce(f"round {number + 1}: {name}: {examples / seconds:.1f} examples/s")
    return rows


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The names in their order, beginning with another one each round."""
    return [names[(place + by) % len(names)] for place in range(len(names))]


def _hits(ground: Ground, folder: Path) -> list[int]:
    """Per validation text whether the trained student is right."""
    task, rows = ground.data.task, ground.data.splits[VALIDATION]
    logits = teacher_logits(folder, rows.texts, task, max_length=ground.recipe.max_length)
    return [int(hit) for hit in decide(logits, task) == rows.labels]


def compare(rows: Sequence[Mapping[str, Any]], slower: str, faster: str) -> dict[str, float]:
    """How many times faster one arm is than another, paired by round, with its 95% interval over the rounds."""
    seconds = {arm: np.array([row["seconds"] for row in rows if row["arm"] == arm]) for arm in (slower, faster)}
    ratio, low, high = paired_ratio(seconds[slower], seconds[faster])
    return {"ratio": ratio, "low": low, "high": high}


def accuracy_difference(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Validation accuracy of ours minus the usual loop's, mean over the seeds, interval over the texts."""
    hits = {arm: np.mean([row["hits"] for row in rows if row["arm"] == arm], axis=0) for arm in (OURS, USUAL)}
    value, low, high = bootstrap_interval(
        lambda ours, usual: float(np.mean(ours - usual)), hits[OURS], hits[USUAL], samples=2000
    )
    return {"ours": float(hits[OURS].mean()), "usual": float(hits[USUAL].mean()), "difference": value} | {
        "low": low,
        "high": high,
    }
