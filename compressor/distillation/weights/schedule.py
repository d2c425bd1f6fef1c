"""Learning-rate schedules: pure functions from the step to a share of the peak."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from serving.errors import UserError


class Schedule(Protocol):
    """Says how high the learning rate is."""

    def share(self, taken: int, *, num_steps: int, warmup_steps: int) -> float:
        """Learning rate of the step after `taken` steps, as a share of the peak, in [0, 1].

        Args:
            taken: optimizer steps taken before this one, from 0.
            num_steps: planned optimizer steps.
            warmup_steps: steps with a rising learning rate.
        """

    def check(self, *, num_steps: int, warmup_steps: int) -> None:
        """UserError when so many steps leave no room for the schedule."""


@dataclass(frozen=True)
class Linear:
    """Linear warm-up from 0 to the peak, then linear decay to 0 behind the last step."""

    def share(self, taken: int, *, num_steps: int, warmup_steps: int) -> float:
        """As transformers' linear schedule."""
        if taken < warmup_steps:
            return taken / max(1, warmup_steps)
        return max(0.0, (num_steps - taken) / max(1, num_steps - warmup_steps))

    def check(self, *, num_steps: int, warmup_steps: int) -> None:
        """Always possible."""


@dataclass(frozen=True)
class ConstantTail:
    """Linear warm-up, linear from the peak to `rate`, and `rate` for every step after `start` of the steps [ours].

    Attributes:
        start: share of the steps before the tail, in [0, 1).
        rate: of the tail as a share of the peak, in (0, 1].
    """

    start: float
    rate: float

    def share(self, taken: int, *, num_steps: int, warmup_steps: int) -> float:
        """Exactly `rate` once `first_step` steps were taken."""
        first = first_step(self.start, num_steps)
        if taken >= first:
            return self.rate
        if taken < warmup_steps:
            return taken / max(1, warmup_steps)
        return 1.0 - (1.0 - self.rate) * (taken - warmup_steps) / (first - warmup_steps)

    def check(self, *, num_steps: int, warmup_steps: int) -> None:
        """UserError when the tail would begin while the learning rate still rises."""
        first = first_step(self.start, num_steps)
        if first < warmup_steps:
            raise UserError(
                f"swa.start {self.start:g} begins averaging after step {first} of {num_steps}, inside the warm-up of "
                f"{warmup_steps} steps. Raise swa.start or lower training.warmup."
            )


def first_step(start: float, num_steps: int) -> int:
    """floor(start * num_steps): steps before the phase; a product that only rounding keeps below a number counts."""
    return math.floor(start * num_steps + 1e-9)
