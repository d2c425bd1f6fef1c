"""A named loss term and what it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from compressor.tasks.task import Task


@dataclass(frozen=True)
class TaskBatch:
    """The rows of one task in one batch.

    Attributes:
        task: the task type's losses.
        logits: student, [rows, outputs]; gradients flow.
        labels: as the task's hard loss takes them.
        has_label: bool [rows].
        targets: cached teacher logits [rows, outputs], or None where the task has no teacher.
        self_logits: what the plan's self-teacher says of these rows in this step, [rows, outputs], without gradient;
            None where the plan has none.
        progress: s / N of the optimizer step s = 0 .. N - 1 that the batch is part of, the same for all of its
            micro-batches; in [0, 1).
        is_added: which rows were added to the task's own, bool [rows]; None: none.
    """

    task: Task
    logits: Tensor
    labels: Tensor
    has_label: Tensor
    targets: Tensor | None
    self_logits: Tensor | None = None
    progress: float = 0.0
    is_added: Tensor | None = None

    def select(self, rows: Tensor) -> TaskBatch:
        """The rows of a boolean mask [rows]."""
        aligned = ("logits", "labels", "has_label", "targets", "self_logits", "is_added")
        parts = {name: value[rows] for name in aligned if (value := getattr(self, name)) is not None}
        return replace(self, **parts)


class LossTerm(Protocol):
    """One summand of the loss."""

    @property
    def name(self) -> str:
        """Shown in the learning curves."""

    @property
    def reads_teacher(self) -> bool:
        """Whether it reads cached teacher logits; where no term does, texts without label take no part."""

    def loss(self, batch: TaskBatch) -> Tensor:
        """Weighted sum over the rows it applies to, a scalar; the trainer divides by the step's examples."""
