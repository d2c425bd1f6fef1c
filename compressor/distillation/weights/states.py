"""The weights at some shares of a training, kept beside the last ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from compressor.distillation.weights.average import model_tensors
from compressor.distillation.weights.rule import WeightRule


def state_name(share: float) -> str:
    """Name of the folder of a state: `state-10` after a tenth of the steps."""
    return f"state-{round(100 * share)}"


class StatesAtShares(WeightRule):
    """Keeps the last weights, and those after some shares of the steps in folders of their own."""

    name = "last"

    def __init__(self, shares: Sequence[float]) -> None:
        """Args: shares: of the steps, each in (0, 1]."""
        self._shares = tuple(shares)
        self._at: dict[str, int] = {}
        self._states: dict[str, list[Tensor]] = {}

    def start(self, model: nn.Module, num_steps: int) -> None:
        """Which steps are kept; the first is the least."""
        self._at = {state_name(share): max(1, round(share * num_steps)) for share in self._shares}
        self._states = {}

    def after_step(self, model: nn.Module, step: int) -> None:
        """Copy the weights of a step that is kept."""
        for name, at in self._at.items():
            if step == at:
                self._states[name] = [tensor.detach().cpu().clone() for tensor in model_tensors(model)]

    def others(self) -> Mapping[str, Sequence[Tensor]]:
        """The states by folder name."""
        return self._states

    def state(self) -> dict[str, Any]:
        """The states so far."""
        return {"states": self._states}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue with them."""
        self._states = dict(state["states"])
