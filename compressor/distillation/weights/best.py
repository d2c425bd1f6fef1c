"""The best validated iterate, with early stopping (Prechelt 1998, "Early stopping - but when?")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compressor.distillation.weights.rule import Validate, WeightRule


class BestOnValidation(WeightRule):
    """Keeps the weights with the best validation score; the first of equals.

    Attributes:
        patience: validations without a better score after which the training ends.
    """

    name = "best on validation"

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best_score = float("-inf")
        self.best_step = 0
        self.waited = 0
        self.weights: dict[str, Tensor] = {}

    def after_validation(self, model: nn.Module, score: float, step: int) -> bool:
        """Remember a better model; True once the patience is used up."""
        if score > self.best_score:
            self.best_score, self.best_step, self.waited = score, step, 0
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        else:
            self.waited += 1
        return self.waited >= self.patience

    def finish(self, model: nn.Module, validate: Validate) -> None:
        """Put the best weights back."""
        if self.weights:
            model.load_state_dict(self.weights)

    def state(self) -> dict[str, Any]:
        """Score, step, patience used and the weights themselves."""
        return {
            "best_score": torch.tensor(self.best_score, dtype=torch.float64),
            "best_step": self.best_step,
            "waited": self.waited,
            "weights": self.weights,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.best_score = float(state["best_score"])
        self.best_step, self.waited = int(state["best_step"]), int(state["waited"])
        self.weights = dict(state["weights"])
