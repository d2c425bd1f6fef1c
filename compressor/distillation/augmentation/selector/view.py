"""What the selector sees of one stored student: the last linear layer of its head, and the inputs of that layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.data.batches import IGNORED_LABEL
from compressor.distillation.targets.term import LossTerm, TaskBatch
from compressor.tasks.task import Task


@dataclass(frozen=True)
class Rows:
    """Texts as the last layer of a student's head sees them.

    Attributes:
        features: its inputs, float32 [rows, width].
        labels: as the task's hard loss takes them, or None for texts without label.
        teacher_logits: float32 [rows, outputs], or None.
    """

    features: Tensor
    labels: Tensor | None = None
    teacher_logits: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("labels", "teacher_logits"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.features):
                raise ValueError(f"{len(self.features)} rows of features have {len(column)} {name}")

    def __len__(self) -> int:
        return len(self.features)

    def take(self, positions: Tensor) -> Rows:
        """The rows at these positions, int64, in that order."""
        labels = None if self.labels is None else self.labels[positions]
        logits = None if self.teacher_logits is None else self.teacher_logits[positions]
        return Rows(self.features[positions], labels, logits)


@dataclass(frozen=True)
class View:
    """One stored student. Nothing here is ever changed.

    Attributes:
        task: the task type's losses.
        weight: of the last linear layer, float32 [outputs, width].
        bias: of that layer, float32 [outputs].
        target: labelled target rows that train, with the teacher's logits.
        candidates: texts without label, with the teacher's logits.
        reward: held-back labelled target rows, on which no episode trains.
        progress: share of the training that the student had behind it, in [0, 1].
        is_judged: candidates made from a reward row, bool [candidates]: no episode of this view may learn from them,
            or it would be judged by what it has read; None: none.
    """

    task: Task
    weight: Tensor
    bias: Tensor
    target: Rows
    candidates: Rows
    reward: Rows
    progress: float
    is_judged: Tensor | None = None

    @property
    def may_train(self) -> Tensor:
        """Candidates that an episode may learn from, bool [candidates]."""
        everything = torch.ones(len(self.candidates), dtype=torch.bool)
        return everything if self.is_judged is None else ~self.is_judged

    def __post_init__(self) -> None:
        if not len(self.target) or not len(self.reward):
            raise ValueError(f"a view has {len(self.target)} target and {len(self.reward)} reward rows; it needs both")
        if self.target.labels is None or self.reward.labels is None:
            raise ValueError("the target rows and the reward rows of a view must have labels")
        if self.target.teacher_logits is None or self.candidates.teacher_logits is None:
            raise ValueError("the target rows and the candidates of a view must have the teacher's logits")


def head_logits(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Answers of the last layer, [rows, outputs]."""
    return features @ weight.T + bias


def training_loss(view: View, rows: Rows, logits: Tensor, terms: Sequence[LossTerm]) -> Tensor:
    """Sum of the student's loss terms over the rows, a scalar; rows without labels count as texts without label.

    Args:
        view: whose task and progress the terms read.
        rows: target rows or candidates.
        logits: of the student, [rows, outputs]; gradients flow.
        terms: of the supervision; none may read the student's own past.
    """
    batch = TaskBatch(
        task=view.task,
        logits=logits,
        labels=_missing_labels(view, len(rows)) if rows.labels is None else rows.labels,
        has_label=torch.full((len(rows),), rows.labels is not None),
        targets=rows.teacher_logits,
        progress=view.progress,
    )
    return sum((term.loss(batch) for term in terms), start=torch.zeros(()))


def _missing_labels(view: View, number: int) -> Tensor:
    """What stands where there is no label, so that a loss that forgets `has_label` cannot learn from it unseen."""
    known = present(view.target.labels)
    filler = float("nan") if known.is_floating_point() else IGNORED_LABEL
    return known.new_full((number, *known.shape[1:]), filler)


def reward_losses(view: View, logits: Tensor) -> Tensor:
    """Hard loss of each reward row, [reward rows]; logits [reward rows, outputs]."""
    labels = present(view.reward.labels).clone()  # autograd takes no tensor that an inference mode has made
    return view.task.hard_loss(logits, labels)


def present(column: Tensor | None) -> Tensor:
    """A column that a view is known to have."""
    if column is None:
        raise ValueError("these rows lack a column that is read here")
    return column


def last_views(views: Sequence[View]) -> list[int]:
    """Positions of the views that have the most training behind them: one per fold."""
    most = max(view.progress for view in views)
    return [position for position, view in enumerate(views) if view.progress == most]
