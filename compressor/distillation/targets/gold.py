"""Gold labels: the task's hard loss. Alone it is the control `none`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressor.distillation.targets.term import TaskBatch


@dataclass(frozen=True)
class GoldLabels:
    """Hard loss over the rows that have a label.

    Attributes:
        weight: of the term, above 0.
    """

    weight: float = 1.0
    name: str = "gold"
    reads_teacher = False

    def loss(self, batch: TaskBatch) -> Tensor:
        """Sum over the labelled rows, times the weight."""
        labelled = batch.has_label
        if bool(labelled.all()):
            return self.weight * batch.task.hard_loss(batch.logits, batch.labels).sum()
        return self.weight * batch.task.hard_loss(batch.logits[labelled], batch.labels[labelled]).sum()
