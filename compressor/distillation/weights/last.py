"""The last iterate: nothing to remember."""

from __future__ import annotations

from typing import Any

from torch import nn


class Last:
    """Keeps the weights after the last step."""

    name = "last"

    def after_step(self, model: nn.Module, step: int) -> None:
        """Nothing to do."""

    def after_validation(self, model: nn.Module, score: float, step: int) -> bool:
        """Never stops early."""
        return False

    def finish(self, model: nn.Module) -> None:
        """The model already holds them."""

    def state(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
