"""Annealed targets (BAM): from the teacher's answers to the gold labels in the course of the training.

Source: Clark, Luong, Khandelwal, Manning and Le (2019), "BAM! Born-again multi-task networks for natural language
understanding", arXiv:1907.04829: the target of an example is lam * label + (1 - lam) * teacher, and lam rises
linearly from 0 (teacher annealing) [paper]. The loss per task type is in `compressor.tasks`; the teacher's logits are
computed once and cached. That lam is 1 for a task without teacher and 0 for a text without label is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressor.distillation.presets import BamKnobs
from compressor.distillation.targets.gold import GoldLabels
from compressor.distillation.targets.term import LossTerm, TaskBatch

CONSTANT = 0.5  # of the paper's ablation


def gold_weight(knobs: BamKnobs, progress: float) -> float:
    """Lam of a step, in [0, 1].

    Args:
        knobs: how lam goes.
        progress: s / N of optimizer step s = 0 .. N - 1.
    """
    if knobs.annealing == "linear":
        return progress
    if knobs.annealing == "off":
        return 0.0
    return CONSTANT if knobs.constant is None else knobs.constant


@dataclass(frozen=True)
class AnnealedTargets:
    """Loss against the mix of label and teacher over all rows.

    Attributes:
        knobs: how the mix changes.
    """

    knobs: BamKnobs
    name: str = "annealed"
    reads_teacher = True

    def loss(self, batch: TaskBatch) -> Tensor:
        """Sum over all rows; gold labels alone where the task has no teacher."""
        if batch.targets is None:
            return GoldLabels().loss(batch)
        weights = batch.has_label.to(batch.logits.dtype) * gold_weight(self.knobs, batch.progress)
        return batch.task.mixed_loss(batch.logits, batch.labels, batch.targets, weights).sum()


def bam_terms(knobs: BamKnobs) -> tuple[LossTerm, ...]:
    """One term; where labels always weigh everything, it is the control, which reads no teacher."""
    if knobs.annealing == "constant" and knobs.constant == 1.0:
        return (GoldLabels(),)
    return (AnnealedTargets(knobs),)
