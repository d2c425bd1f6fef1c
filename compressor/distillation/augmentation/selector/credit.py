"""How the reward of an episode becomes a judgement of single candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """What an episode did and what it was worth.

    Attributes:
        view: position of the stored student.
        rows: positions of the candidates that were offered, int64.
        kept: which of them were kept, bool [offered].
        reward: as measured.
        reward_scaled: over the deviation of earlier rewards; 0 while there are too few of them.
        advantage: its distance from the mean of earlier rewards on that scale; 0 while there are too few.
    """

    view: int
    rows: Tensor
    kept: Tensor
    reward: float
    reward_scaled: float
    advantage: float


class Credit(Protocol):
    """Learns from episodes which candidates to keep."""

    def probabilities(self, view: int, rows: Tensor) -> Tensor:
        """With which the offered candidates are kept in the next episode, [rows]."""

    def learn(self, outcome: Outcome) -> None:
        """Take in an episode."""

    def scores(self, view: int) -> Tensor:
        """How much each candidate is to be kept, float32 [candidates] in [0, 1]."""
