"""Stochastic weight averaging for fine-tuning: the mean of the weights of a phase with a constant learning rate.

Source: Lu et al. (2022), "Improving generalization of pre-trained language models via stochastic weight
averaging", arXiv:2212.05956 [paper]: after the first part of the budget the learning rate is constant and
relatively high, and W <- (n * W + w) / (n + 1) every K steps, the starting point of the phase included. Where the
phase begins, the way to its learning rate (`ConstantTail`) and K are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from compressor.distillation.presets import SwaKnobs
from compressor.distillation.weights.average import WeightMean, device_of, hold, holding, model_tensors
from compressor.distillation.weights.rule import Validate, WeightRule
from compressor.distillation.weights.schedule import first_step
from serving.errors import UserError

Candidate = Literal["average", "last"]
_MANY_STEPS = 1_000


def steps_between(every: int | None, num_steps: int) -> int:
    """K: as set, or 1 below a thousand steps and a hundredth of the steps from there on [ours]."""
    return every or (1 if num_steps < _MANY_STEPS else max(1, num_steps // 100))


def choose(average: Mapping[str, float], last: Mapping[str, float]) -> Candidate:
    """The candidate with the lower validation loss, then the higher score, then the average.

    Args:
        average: validation figures of the averaged weights: `TASK_loss` per task and `score`.
        last: those of the last weights.
    """
    return "average" if _rank(average) <= _rank(last) else "last"


def _rank(figures: Mapping[str, float]) -> tuple[float, float]:
    """Mean loss over the tasks and minus the score: lower is better."""
    return float(np.mean([figures[name] for name in figures if name.endswith("_loss")])), -figures["score"]


class StochasticWeightAverage(WeightRule):
    """Averages w_start, w_(start+K), ... and keeps the mean, the last weights, or the better on validation.

    Attributes:
        mean: of the weights seen so far, one copy; empty before the phase.
        kept: which weights the model holds after `finish`.
    """

    def __init__(self, knobs: SwaKnobs) -> None:
        self.knobs = knobs
        self.mean = WeightMean()
        self.kept: Candidate = "average"
        self.first = self.every = self.num_steps = 0
        self._facts: dict[str, Any] = {}
        self._others: dict[str, Sequence[Tensor]] = {}

    @property
    def name(self) -> str:
        """Says how many weights the mean holds."""
        return f"mean of {self.mean.count} (swa)" if self.kept == "average" else "last (swa)"

    def check(self, num_steps: int) -> None:
        """UserError when the phase has no room for a second average."""
        first, every = first_step(self.knobs.start, num_steps), steps_between(self.knobs.every, num_steps)
        if every > num_steps - first:
            raise UserError(
                f"swa.every is {every}, but only {num_steps - first} of {num_steps} steps lie in the averaging phase, "
                "so nothing would be averaged. Lower swa.every or swa.start, or train longer."
            )

    def start(self, model: nn.Module, num_steps: int) -> None:
        """Fix where the phase begins; a phase from step 0 on includes the initial weights."""
        self.first, self.num_steps = first_step(self.knobs.start, num_steps), num_steps
        self.every = steps_between(self.knobs.every, num_steps)
        self.mean = WeightMean(device_of(model))
        if self.first == 0:
            self.mean.add(model)

    def after_step(self, model: nn.Module, step: int) -> None:
        """Take every K-th weights of the phase in, its starting point first."""
        if step >= self.first and (step - self.first) % self.every == 0:
            self.mean.add(model)

    def finish(self, model: nn.Module, validate: Validate) -> None:
        """Score both candidates on validation and put the wanted one into the model."""
        own = model_tensors(model)
        last = [tensor.data for tensor in own]
        always_last = dict(validate(model))
        with holding(own, self.mean.tensors):
            always_average = dict(validate(model))
        selected = choose(always_average, always_last)
        self.kept = selected if self.knobs.keep == "selected" else self.knobs.keep
        self._others = {"last": last}
        if self.kept == "average":
            hold(own, self.mean.tensors)
        else:
            self._others["average"] = self.mean.tensors
        self._facts = {"always_average": always_average, "always_last": always_last, "selected": selected}

    def others(self) -> Mapping[str, Sequence[Tensor]]:
        """The last weights, and the mean where it is not kept."""
        return self._others

    def facts(self) -> Mapping[str, Any]:
        """The phase, and both candidates' validation figures."""
        counts = {"start": self.first, "every": self.every, "snapshots": self.mean.count}
        return {"swa": {**counts, **self._facts, "kept": self.kept}}

    def state(self) -> dict[str, Any]:
        """The mean and its count."""
        return self.mean.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.mean.load_state(state)
