"""An episode: what a few updates of the student's head are worth with some added rows, against without them.

Ours: r = L_V(after u updates on a target batch alone) - L_V(after the same updates on that batch and the kept
candidates), from the same stored weights, on cached features (so without dropout). The updates are plain gradient
steps on all of these rows: they have no state, and an added row acts by the size of its own gradient, whereas the
first steps of AdamW look at signs only. The step is a share of the inverse mean squared norm of the features, so that
it means the same for every student and stays below what any of the losses tolerates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.distillation.augmentation.selector.view import Rows, View, head_logits, reward_losses, training_loss
from compressor.distillation.targets.term import LossTerm
from serving.errors import UserError

HEAD_RATE = 0.5


@dataclass(frozen=True)
class HeadTraining:
    """How the student's head is trained in an episode.

    Attributes:
        terms: of the student's loss.
        gamma: what an added row weighs beside a target row, at least 0; the mean counts it as so many rows, where the
            student's trainer divides by all rows of a step.
        updates: gradient steps on the same rows.
        rate: step as a share of 1 / mean squared norm of the features, above 0.
    """

    terms: tuple[LossTerm, ...]
    gamma: float
    updates: int
    rate: float = HEAD_RATE


class HeadTrials:
    """Trainings of one view's head, each from the stored weights.

    Attributes:
        view: the stored student.
        training: how.
        step: of a gradient update.
    """

    def __init__(self, view: View, training: HeadTraining) -> None:
        self.view = view
        self.training = training
        self.step = training.rate / max(_mean_squared_norm(view.target), _mean_squared_norm(view.candidates))

    def reward(self, batch: Tensor, kept: Tensor) -> float:
        """What the kept candidates are worth; exactly 0 where none is kept.

        Args:
            batch: positions of target rows, int64.
            kept: positions of candidates, int64.

        Raises:
            UserError: a loss is no number.
        """
        if not len(kept):
            return 0.0
        return self.loss_after(batch, kept[:0]) - self.loss_after(batch, kept)

    def loss_after(self, batch: Tensor, kept: Tensor) -> float:
        """Mean hard loss on the reward rows after the updates; arguments and errors as in `reward`."""
        return float(self.losses_after(batch, kept).mean())

    def losses_after(self, batch: Tensor, kept: Tensor) -> Tensor:
        """Hard loss of each reward row after the updates, [reward rows]; arguments and errors as in `reward`."""
        weight, bias = self._train(self.view.target.take(batch), self.view.candidates.take(kept))
        losses = reward_losses(self.view, head_logits(self.view.reward.features, weight, bias))
        finite(float(losses.mean()), "the loss on the reward rows")
        return losses

    def _train(self, target: Rows, added: Rows) -> tuple[Tensor, Tensor]:
        """The layer's weight and bias after the updates."""
        weight, bias = self.view.weight.clone(), self.view.bias.clone()
        for _ in range(self.training.updates):
            weight, bias = weight.detach().requires_grad_(), bias.detach().requires_grad_()
            slopes = torch.autograd.grad(self._loss(target, added, weight, bias), (weight, bias))
            weight, bias = weight.detach() - self.step * slopes[0], bias.detach() - self.step * slopes[1]
        return weight, bias

    def _loss(self, target: Rows, added: Rows, weight: Tensor, bias: Tensor) -> Tensor:
        """Mean of the terms over all rows, an added one counting gamma rows; the target's alone where gamma is 0."""
        training = self.training
        loss = training_loss(self.view, target, head_logits(target.features, weight, bias), training.terms)
        added_weight = training.gamma * len(added)
        if added_weight == 0.0:
            return loss / len(target)
        logits = head_logits(added.features, weight, bias)
        loss = loss + training.gamma * training_loss(self.view, added, logits, training.terms)
        return loss / (len(target) + added_weight)


def _mean_squared_norm(rows: Rows) -> float:
    """Of the features and the 1 that the bias stands for; at least 1."""
    return 1.0 + (float(rows.features.square().sum(dim=1).mean()) if len(rows) else 0.0)


def finite(value: float, what: str) -> float:
    """The value; UserError where it is no number."""
    if not math.isfinite(value):
        raise UserError(
            f"{what} became {value} while the selector learned, expected a number; look for NaN among the teacher's "
            "logits, or lower the student's learning rate"
        )
    return value


class RewardScale:
    """Puts rewards on the scale of those before them (Welford's sums)."""

    def __init__(self, least: int = 5) -> None:
        """Args: least: rewards that must have been seen before one is scaled, at least 2."""
        self._least = least
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def scaled(self, reward: float) -> tuple[float, float]:
        """The reward, and its distance from the mean, over the standard deviation; of the earlier rewards both.

        Both are 0 while the earlier rewards are too few or do not differ.
        """
        mean = self._mean
        deviation = math.sqrt(self._squares / (self._count - 1)) if self._count >= self._least else 0.0
        self._take_in(reward)
        if deviation <= 1e-6 * abs(mean):
            return 0.0, 0.0
        return reward / deviation, (reward - mean) / deviation

    def _take_in(self, reward: float) -> None:
        self._count += 1
        distance = reward - self._mean
        self._mean += distance / self._count
        self._squares += distance * (reward - self._mean)
