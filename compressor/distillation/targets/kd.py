"""Soft targets: the student matches the teacher's softened distribution.

Source: Hinton, Vinyals and Dean (2015), arXiv:1503.02531, section 2. The losses per task type are in
`compressor.tasks`; the teacher's logits are computed once and cached. A task without teacher, beside others that
have one, is taught by its labels alone [ours].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressor.distillation.presets import KdKnobs
from compressor.distillation.targets.gold import GoldLabels
from compressor.distillation.targets.term import LossTerm, TaskBatch


@dataclass(frozen=True)
class SoftTargets:
    """Soft loss over all rows of tasks with a teacher, those without label too.

    Attributes:
        weight: of the term, above 0.
        temperature: above 0.
    """

    weight: float
    temperature: float
    name: str = "soft"
    reads_teacher = True

    def loss(self, batch: TaskBatch) -> Tensor:
        """Sum over all rows, times the weight; 0 where the task has no teacher."""
        if batch.targets is None:
            return batch.logits.new_zeros(())
        return self.weight * batch.task.soft_loss(batch.logits, batch.targets, self.temperature).sum()


@dataclass(frozen=True)
class LabelsBesideTeacher:
    """Hard loss over the labelled rows: a share of it beside a teacher, all of it where the task has none.

    Attributes:
        weight: beside a teacher, in [0, 1].
    """

    weight: float
    name: str = "gold"
    reads_teacher = False

    def loss(self, batch: TaskBatch) -> Tensor:
        """Sum over the labelled rows, times the weight that holds for the task."""
        if batch.targets is None:
            return GoldLabels().loss(batch)
        return GoldLabels(self.weight).loss(batch) if self.weight > 0.0 else batch.logits.new_zeros(())


def kd_terms(knobs: KdKnobs) -> tuple[LossTerm, ...]:
    """Alpha * soft + (1 - alpha) * gold; with alpha 0 it is the control, which reads no teacher."""
    if knobs.alpha == 0.0:
        return (GoldLabels(),)
    return (SoftTargets(knobs.alpha, knobs.temperature), LabelsBesideTeacher(1.0 - knobs.alpha))
