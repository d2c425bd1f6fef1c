"""The policy: how likely a candidate is kept, given its state. It starts as the fixed filter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.selector.state import State

HIDDEN_WIDTH = 64


class Policy(nn.Module):
    """pi(keep | state) = sigmoid(scale * filter + MLP(state) + bias), the filter's scores standardised.

    The last layer of the MLP and the bias are 0 at first. With a scale of 1 texts are kept in the filter's order, with
    0 each as often as any other.
    """

    def __init__(self, num_features: int, *, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        first = _layer(num_features, HIDDEN_WIDTH, generator)
        second = _layer(HIDDEN_WIDTH, HIDDEN_WIDTH, generator)
        last = _layer(HIDDEN_WIDTH, 1, generator)
        nn.init.zeros_(last.weight)
        self.layers = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last)
        self.scale = nn.Parameter(torch.full((), scale))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, standard_filter: Tensor) -> Tensor:
        """Log-odds of being kept, [rows]; features [rows, features], filter [rows]."""
        learned: Tensor = self.layers(features)
        return self.scale * standard_filter + learned[:, 0] + self.bias


def _layer(before: int, after: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer drawn from the generator; the global one is not touched."""
    layer = nn.Linear(before, after, device="meta").to_empty(device="cpu")
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class PolicyLearner:
    """A policy over the states of all views, and its optimizer (Adam).

    Attributes:
        states: one per view.
        entropy_weight: of the bonus that keeps the policy from being sure too early.
        policy: the policy.
    """

    def __init__(self, states: Sequence[State], settings: L2aKnobs, *, seed: int) -> None:
        self.states = states
        self.entropy_weight = settings.entropy
        scale = 1.0 if settings.prior == "filter" else 0.0
        self.policy = Policy(states[0].features.shape[1], seed=seed, scale=scale)
        self._filters = [state.standard_filter for state in states]
        self._optimizer = torch.optim.Adam(self.policy.parameters(), lr=settings.learning_rate)

    def log_odds(self, view: int, rows: Tensor) -> Tensor:
        """Of being kept, [rows]; gradients flow."""
        odds: Tensor = self.policy(self.states[view].features[rows], self._filters[view][rows])
        return odds

    @torch.no_grad()
    def probabilities(self, view: int, rows: Tensor) -> Tensor:
        """Of being kept, [rows]; without gradient."""
        return self.log_odds(view, rows).sigmoid()

    def scores(self, view: int) -> Tensor:
        """The probabilities of all candidates, [candidates]."""
        return self.probabilities(view, torch.arange(len(self.states[view].features)))

    def descend(self, loss: Tensor) -> None:
        """One step of the optimizer."""
        parameters = list(self.policy.parameters())
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = slope
        self._optimizer.step()


def log_likelihood(log_odds: Tensor, kept: Tensor) -> Tensor:
    """Of a selection, a scalar in nats; log-odds [rows], kept bool [rows]."""
    return -functional.binary_cross_entropy_with_logits(log_odds, kept.to(log_odds.dtype), reduction="sum")


def entropies(log_odds: Tensor) -> Tensor:
    """Of each decision, [rows] in nats, in [0, ln 2]."""
    likely = log_odds.sigmoid()
    return -likely * functional.logsigmoid(log_odds) - (1.0 - likely) * functional.logsigmoid(-log_odds)


def sample(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Which rows are kept, each by itself with its probability, bool [rows]."""
    return torch.rand(len(probabilities), generator=generator) < probabilities
