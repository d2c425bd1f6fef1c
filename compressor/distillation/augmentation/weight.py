"""What added rows weigh in the loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compressor.distillation.targets.term import LossTerm, TaskBatch


@dataclass(frozen=True)
class AddedWeight:
    """A term in which the rows that were added count less, or more, than the task's own.

    The trainer divides by all examples of a step: a weight of 1 is the term itself.

    Attributes:
        term: any summand of the loss.
        weight: gamma, of added rows, above 0.
    """

    term: LossTerm
    weight: float

    @property
    def name(self) -> str:
        """That of the term."""
        return self.term.name

    @property
    def reads_teacher(self) -> bool:
        """As the term."""
        return self.term.reads_teacher

    def loss(self, batch: TaskBatch) -> Tensor:
        """The term over the task's own rows, and `weight` times the term over the added ones."""
        if batch.is_added is None or not bool(batch.is_added.any()):
            return self.term.loss(batch)
        added = self.weight * self.term.loss(batch.select(batch.is_added))
        return self.term.loss(batch.select(~batch.is_added)) + added
