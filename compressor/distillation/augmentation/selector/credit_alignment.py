"""Credit by alignment: every candidate is judged by its own gradient, to first order. Ours.

A small step on a candidate changes the loss on the reward rows by minus step * alignment, so the alignment is the
reward that it earns alone. No episode is needed for it; they are played for the record.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.selector.credit import Outcome
from compressor.distillation.augmentation.selector.policy import PolicyLearner, entropies
from compressor.distillation.augmentation.selector.state import State


def alignment_loss(log_odds: Tensor, credits: Tensor, *, entropy_weight: float) -> Tensor:
    """Minus the expected credit of the selection minus its weighted entropy; exact, nothing is sampled.

    Args:
        log_odds: of being kept, [offered]; gradients flow.
        credits: what each is worth if it is kept, [offered].
        entropy_weight: at least 0.

    Returns:
        A scalar.
    """
    return -(log_odds.sigmoid() * credits).sum() - entropy_weight * entropies(log_odds).sum()


class Alignment:
    """The policy moves towards candidates whose gradients agree with the reward rows'."""

    def __init__(self, states: Sequence[State], settings: L2aKnobs, *, seed: int) -> None:
        self.learner = PolicyLearner(states, settings, seed=seed)
        self.credits = [_scaled(state.alignment) for state in states]

    def probabilities(self, view: int, rows: Tensor) -> Tensor:
        """The policy's, [rows]."""
        return self.learner.probabilities(view, rows)

    def learn(self, outcome: Outcome) -> None:
        """One step along the gradient of the expected credit; the reward is not read."""
        odds = self.learner.log_odds(outcome.view, outcome.rows)
        weight = self.learner.entropy_weight
        self.learner.descend(alignment_loss(odds, self.credits[outcome.view][outcome.rows], entropy_weight=weight))

    def scores(self, view: int) -> Tensor:
        """The policy's probabilities, [candidates]."""
        return self.learner.scores(view)


def _scaled(alignment: Tensor) -> Tensor:
    """On the scale of their root mean square: the sign says whether a candidate helps, so nothing is subtracted."""
    size = float(alignment.square().mean().sqrt())
    return alignment / size if size > 0.0 else alignment
