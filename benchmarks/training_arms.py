"""The loops that `benchmarks.training` times: ours, ours with a saving taken away, and the usual one.

Every arm starts from the same files and ends with a trained student on disk. The usual loop is what tutorials teach:
the teacher answers in every step, batches in random order padded to their longest text
(`DataCollatorWithPadding`), fp32, AdamW (torch's fused one) over all weights, validation after every epoch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
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
from compressor.distillation.presets import KdKnobs
from compressor.distillation.training import TrainingJob, train
from compressor.models.checkpoint import TASKS_FILE, load_checkpoint
from compressor.models.initialise import load_tokenizer
from compressor.models.task_model import TaskModel
from compressor.models.teacher import teacher_logits
from compressor.recipe import Recipe
from export.runners import limit_threads

OURS, USUAL, PADDED = "ours", "usual loop", "usual loop, padded to the full length"


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
    def num_examples(self) -> int:
        """Training rows times epochs."""
        return len(self.data.splits[TRAIN]) * self.recipe.training.epochs

    @property
    def threads(self) -> int:
        """CPU threads of every arm."""
        return self.recipe.training.cpu_threads

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
    unknown = np.full((len(ground.data.splits[TRAIN]), task.num_outputs), np.nan)
    job = TrainingJob(
        model=load_checkpoint(ground.student),
        tokenizer=load_tokenizer(str(ground.student)),
        data={task.name: ground.data},
        targets={task.name: unknown if asks_every_step else _targets(ground)},
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
    with patch("compressor.data.order._BATCHES_PER_GROUP", 1):
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
    with limit_threads(ground.threads):
        texts = ground.data.splits[TRAIN].texts
        return teacher_logits(ground.teacher, texts, ground.data.task, max_length=ground.recipe.max_length)


def train_usual(ground: Ground, folder: Path, *, pads_fully: bool = False) -> None:
    """The loop of the tutorials; optionally every text padded to the recipe's length."""
    settings, generator = ground.recipe.training, torch.Generator().manual_seed(ground.seed)
    torch.manual_seed(ground.seed)
    tokenizer = AutoTokenizer.from_pretrained(ground.student)
    student = AutoModelForSequenceClassification.from_pretrained(ground.student, dtype=torch.float32)
    teacher = AutoModelForSequenceClassification.from_pretrained(ground.teacher, dtype=torch.float32).eval()
    length = {"padding": "max_length", "max_length": ground.recipe.max_length} if pads_fully else {}
    collator = DataCollatorWithPadding(tokenizer, **length)
    features: dict[str, Any] = {split: _features(ground, tokenizer, split) for split in (TRAIN, VALIDATION)}
    loader: DataLoader[Any] = DataLoader(
        features[TRAIN], settings.batch_size, shuffle=True, generator=generator, collate_fn=collator
    )
    steps = settings.epochs * len(loader)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup * steps), steps)
    with limit_threads(ground.threads):
        for _ in range(settings.epochs):
            student.train()
            for batch in loader:
                torch.autograd.backward(_distillation_loss(student, teacher, batch, ground.knobs))
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
    return [{"labels": label, **{name: encoded[name][row] for name in encoded}} for row, label in enumerate(labels)]


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
    PADDED: partial(train_usual, pads_fully=True),
}
