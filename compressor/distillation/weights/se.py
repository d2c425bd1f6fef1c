"""Means over all steps of a run: the self-ensemble, and an exponential mean as a control.

Source of SE: Xu, Qiu, Zhou and Huang (2020), "Improving BERT fine-tuning via self-ensemble and
self-distillation", arXiv:2002.10345: the result's weights are the mean over all steps [paper]; alone it gained
about nothing there. That w_1 .. w_N count, and not the start w_0, is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from compressor.distillation.weights.average import WeightMean, device_of, hold, model_tensors
from compressor.distillation.weights.rule import Validate, WeightRule


class MeanOfAllSteps(WeightRule):
    """Keeps the mean of w_1 .. w_N.

    Attributes:
        mean: of the weights so far, one copy.
    """

    key = "se"
    decay: float | None = None

    def __init__(self) -> None:
        self.mean = WeightMean()

    @property
    def name(self) -> str:
        """Says how many weights the mean holds."""
        return f"mean of {self.mean.count} ({self.key})"

    def start(self, model: nn.Module, num_steps: int) -> None:
        """Begin with nothing in the mean."""
        self.mean = WeightMean(device_of(model))

    def after_step(self, model: nn.Module, step: int) -> None:
        """Take the weights in."""
        self.mean.add(model, self.decay)

    def finish(self, model: nn.Module, validate: Validate) -> None:
        """Put the mean into the model."""
        hold(model_tensors(model), self.mean.tensors)

    def facts(self) -> Mapping[str, Any]:
        """How many weights were averaged."""
        return {self.key: {"snapshots": self.mean.count}}

    def state(self) -> dict[str, Any]:
        """The mean and its count."""
        return self.mean.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.mean.load_state(state)
