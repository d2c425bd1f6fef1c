"""What a rule that chooses the kept weights can see and do."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn


class WeightRule(Protocol):
    """Told of every optimizer step and validation; says at the end which weights the result has."""

    @property
    def name(self) -> str:
        """Shown in the report."""

    def after_step(self, model: nn.Module, step: int) -> None:
        """Optimizer step `step` (from 1) was taken; the model holds its result."""

    def after_validation(self, model: nn.Module, score: float, step: int) -> bool:
        """The model scored this on validation (higher is better); True ends the training."""

    def finish(self, model: nn.Module) -> None:
        """Put the kept weights into the model."""

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs: numbers and tensors."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
