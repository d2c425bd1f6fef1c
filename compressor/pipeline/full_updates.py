"""Rewards by the whole student: what an episode would have shown if more than the head had learned from it.

They cost a hundred times as much as those over cached features; a few of them say how far the cheap ones can be
trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressor.data.batches import Collator, TaskExamples, Tokens, task_rows, tokenise
from compressor.data.splits import TaskData, training_texts
from compressor.distillation.augmentation.selector.rollback import Rollback
from compressor.distillation.plan import Plan
from compressor.distillation.targets.term import TaskBatch
from compressor.models.checkpoint import load_with_tokenizer
from compressor.models.predict import predict_logits
from compressor.models.task_model import TaskModel
from compressor.recipe import TrainingSettings
from compressor.tasks.registry import TASKS, gold_losses

UPDATES = 3


@dataclass(frozen=True)
class StoredState:
    """A student in the middle of its training.

    Attributes:
        folder: its checkpoint.
        is_reward: the rows that judge it, bool [train rows].
        progress: share of the training that it had behind it, in [0, 1].
    """

    folder: Path
    is_reward: np.ndarray
    progress: float


@dataclass
class FullUpdates:
    """Updates of the whole student from a stored state, always rolled back; without dropout, like the cheap ones.

    Attributes:
        states: one per view.
        rows_of: the task with some of its train rows, and the candidates behind them.
        targets: the teacher's logits over the train rows.
        candidate_logits: and over the candidates.
        plan: loss terms.
        settings: learning rate and clipping.
        max_length: tokens per text.
        gamma: what candidates weigh.
    """

    states: Sequence[StoredState]
    rows_of: Callable[[np.ndarray], TaskData]
    targets: np.ndarray
    candidate_logits: np.ndarray
    plan: Plan
    settings: TrainingSettings
    max_length: int
    gamma: float
    _open: dict[int, _Student] = field(default_factory=dict)

    def reward(self, view: int, target_rows: np.ndarray, kept: np.ndarray) -> float:
        """Loss on the reward rows after updates on target rows, less the loss after updates on the kept as well.

        Args:
            view: position of the stored state.
            target_rows: int64, positions among the rows that are not reward rows.
            kept: int64, positions of candidates.
        """
        if view not in self._open:
            self._open = {view: self._student(view)}
        student = self._open[view]
        own = student.loss_after(target_rows, np.zeros(0, dtype=np.int64), self.plan, gamma=self.gamma)
        return own - student.loss_after(target_rows, kept, self.plan, gamma=self.gamma)

    def _student(self, view: int) -> _Student:
        state = self.states[view]
        model, tokenizer = load_with_tokenizer(state.folder)
        mask = state.is_reward
        data, judged = self.rows_of(~mask), self.rows_of(mask)
        targets = np.concatenate([self.targets[~mask], self.candidate_logits])
        tokens = tokenise(tokenizer, training_texts(data), self.max_length)
        judge = tokenise(tokenizer, judged.splits["train"].texts, self.max_length)
        pad_id = int(tokenizer.pad_token_id)
        collator = Collator([task_rows(data, targets)], pad_id=pad_id)
        rows = TaskExamples([tokens])
        return _Student(model, rows, collator, judge, judged, int((~mask).sum()), state.progress, self.settings)


@dataclass(frozen=True)
class _Student:
    """A student in one state, with what it learns from and what judges it."""

    model: TaskModel
    examples: TaskExamples
    collator: Collator
    judge: Tokens
    judged: TaskData
    num_own: int
    progress: float
    settings: TrainingSettings

    def loss_after(self, target_rows: np.ndarray, kept: np.ndarray, plan: Plan, *, gamma: float) -> float:
        """Mean hard loss on the reward rows after some updates, which are undone."""
        rows = [*target_rows.tolist(), *(self.num_own + kept).tolist()]
        batch = self.collator([self.examples[row] for row in rows])
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.settings.learning_rate)
        with Rollback(self.model, optimizer=optimizer):
            self.model.eval()
            for _ in range(UPDATES):
                optimizer.zero_grad(set_to_none=True)
                self._loss(batch, plan, gamma).backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
                optimizer.step()
            return self._judged()

    def _loss(self, batch: dict[str, Any], plan: Plan, gamma: float) -> Tensor:
        (spec,) = self.model.tasks
        inputs = {name: tensor for name, tensor in batch.items() if isinstance(tensor, Tensor)}
        logits = self.model(**inputs, rows=batch["rows"])[spec.name]
        found = TaskBatch(
            task=TASKS[spec.type],
            logits=logits,
            labels=batch["labels"][spec.name],
            has_label=batch["has_label"][spec.name],
            targets=batch["targets"][spec.name],
            progress=self.progress,
            is_added=batch["is_added"][spec.name],
        )
        own, added = found.select(~batch["is_added"][spec.name]), found.select(batch["is_added"][spec.name])
        total = sum((term.loss(own) + gamma * term.loss(added) for term in plan.terms), start=torch.zeros(()))
        return total / len(logits)

    def _judged(self) -> float:
        (spec,) = self.model.tasks
        logits = predict_logits(self.model, self.judge, spec.name, pad_id=self.collator.pad_id)
        return float(gold_losses(torch.from_numpy(logits), np.asarray(self.judged.splits["train"].labels), spec).mean())
