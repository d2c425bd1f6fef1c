"""Soft targets: the student matches the teacher's softened distribution.

Source: Hinton, Vinyals and Dean (2015), arXiv:1503.02531, section 2. The losses per task type are in
`compressor.tasks`; the teacher's logits are computed once and cached.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressor.distillation.presets import KdKnobs
from compressor.distillation.targets.gold import GoldLabels
from compressor.distillation.targets.term import LossTerm, TaskBatch


@dataclass(frozen=True)
class SoftTargets:
    """Soft loss over all rows, those without label too.

    Attributes:
        weight: of the term, above 0.
        temperature: above 0.
    """

    weight: float
    temperature: float
    name: str = "soft"

    def loss(self, batch: TaskBatch) -> Tensor:
        """Sum over all rows, times the weight."""
        if batch.targets is None:
            raise RuntimeError("a soft target was asked for, but no teacher logits were cached for this task")
        return self.weight * batch.task.soft_loss(batch.logits, batch.targets, self.temperature).sum()


def kd_terms(knobs: KdKnobs) -> tuple[LossTerm, ...]:
    """Alpha * soft + (1 - alpha) * gold; a term of weight 0 is left out, so alpha 0 is the control."""
    terms: list[LossTerm] = []
    if knobs.alpha > 0.0:
        terms.append(SoftTargets(knobs.alpha, knobs.temperature))
    if knobs.alpha < 1.0:
        terms.append(GoldLabels(1.0 - knobs.alpha))
    return tuple(terms)
