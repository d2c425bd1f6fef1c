"""What a rule that chooses the kept weights can see and do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

Validate: TypeAlias = Callable[[nn.Module], Mapping[str, float]]
"""Figures of a model on validation: `score` (higher is better) and `TASK_loss` for every task."""


class WeightRule:
    """Told of every optimizer step and validation; says at the end which weights the result has.

    What is not overridden does nothing: such a rule keeps the last weights.
    """

    @property
    def name(self) -> str:
        """Of the kept weights, shown in the report."""
        return "last"

    def check(self, num_steps: int) -> None:
        """UserError when a training of so many optimizer steps cannot be what the rule asks for."""

    def start(self, model: nn.Module, num_steps: int) -> None:
        """A training of so many steps begins from the model's weights; before `load_state` where it is resumed."""

    def after_step(self, model: nn.Module, step: int) -> None:
        """Optimizer step `step` (from 1) was taken; the model holds its result."""

    def after_validation(self, model: nn.Module, score: float, step: int) -> bool:
        """The model scored this on validation (higher is better); True ends the training."""
        return False

    def finish(self, model: nn.Module, validate: Validate) -> None:
        """Put the kept weights into the model, which holds those of the last step."""

    def others(self) -> Mapping[str, Sequence[Tensor]]:
        """After `finish`: further weights that get a folder of that name beside the kept ones."""
        return {}

    def facts(self) -> Mapping[str, Any]:
        """After `finish`: what `history.json` says of the rule."""
        return {}

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs: numbers and tensors."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
