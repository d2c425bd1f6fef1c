"""Credit by REINFORCE: every decision of an episode shares its reward.

Source: Williams (1992), "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
The baseline is counterfactual, the same batch without added rows, and already inside the reward. What is left of a mean
is taken off too, that of earlier episodes, which changes no expected gradient: where most selections help, or most
harm, it would drown what tells them apart. That and the entropy bonus are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.selector.credit import Outcome
from compressor.distillation.augmentation.selector.policy import PolicyLearner, entropies, log_likelihood
from compressor.distillation.augmentation.selector.state import State


def reinforce_loss(log_odds: Tensor, kept: Tensor, *, reward: float, entropy_weight: float) -> Tensor:
    """Minus reward * log pi(selection) minus the weighted entropy of the selection.

    The mean of its gradient over selections is minus the gradient of the expected reward and entropy.

    Args:
        log_odds: of being kept, [offered]; gradients flow.
        kept: what was kept, bool [offered].
        reward: a constant.
        entropy_weight: at least 0.

    Returns:
        A scalar.
    """
    return -reward * log_likelihood(log_odds, kept) - entropy_weight * entropies(log_odds).sum()


class Reinforce:
    """The policy moves towards the selections that were worth something."""

    def __init__(self, states: Sequence[State], settings: L2aKnobs, *, seed: int) -> None:
        self.learner = PolicyLearner(states, settings, seed=seed)

    def probabilities(self, view: int, rows: Tensor) -> Tensor:
        """The policy's, [rows]."""
        return self.learner.probabilities(view, rows)

    def learn(self, outcome: Outcome) -> None:
        """One step along the gradient of the reward."""
        odds = self.learner.log_odds(outcome.view, outcome.rows)
        weight = self.learner.entropy_weight
        self.learner.descend(reinforce_loss(odds, outcome.kept, reward=outcome.advantage, entropy_weight=weight))

    def scores(self, view: int) -> Tensor:
        """The policy's probabilities, [candidates]."""
        return self.learner.scores(view)
