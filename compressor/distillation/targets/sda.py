"""Self-distillation from averaged weights (SDA): the teacher is the mean of the students before the current one.

Source: Xu, Qiu, Zhou and Huang (2020), "Improving BERT fine-tuning via self-ensemble and self-distillation",
arXiv:2002.10345. In step s, taken from w_(s-1), the teacher's weights are the mean of w_(s-2) .. w_(s-1-K), as many
as exist; w_0 in step 1 [paper]. With the current weights inside, K = 1 would teach nothing. The exponential mean and
the ablation are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from compressor.distillation.knobs import SdaKnobs
from compressor.distillation.targets.recent import RecentWeights
from compressor.distillation.targets.self_teacher import CurrentStudent, SelfTeacher, frozen_logits
from compressor.distillation.weights.average import (
    decayed_share,
    device_of,
    frozen_copy,
    mean_share,
    model_tensors,
    move_towards,
)
from serving.errors import UserError


class AverageOfStudents:
    """A second model whose weights are the running mean, exponential or not, of all students before the current.

    It is one copy of the weights, for any number of steps. K = 1 is the mean with no memory.

    Attributes:
        module: the teacher, in eval mode.
        count: how many students are in its weights.
    """

    def __init__(self, decay: float | None = None) -> None:
        """Args: decay: in [0, 1), students s steps older count decay^s, 0 is the latest alone; None: all the same."""
        self.decay = decay
        self.count = 0
        self.module: nn.Module = nn.Identity()

    def check(self, num_steps: int) -> None:
        """Always possible."""

    def start(self, model: nn.Module) -> None:
        """The first teacher is w_0."""
        self.module, self.count = frozen_copy(model), 1

    def logits(self, model: nn.Module, tensors: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One forward pass of the averaged model."""
        return frozen_logits(self.module, tensors, rows)

    def before_update(self, model: nn.Module, step: int) -> None:
        """Take w_(step-1) in, the newest that the teacher of the next step may know; w_0 is there already."""
        if step == 1:
            return
        self.count += 1
        share = mean_share(self.count) if self.decay is None else decayed_share(self.count, self.decay)
        move_towards(model_tensors(self.module), model_tensors(model), share)

    def state(self) -> dict[str, Any]:
        """The mean and its count."""
        return {"count": self.count, "mean": model_tensors(self.module)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.count = int(state["count"])
        move_towards(model_tensors(self.module), state["mean"], 1.0)


class AverageOfRecent(AverageOfStudents):
    """The mean of the last K students before the current one: K copies and their mean.

    The mean is made anew from the copies in every step; updating it by their difference would gather rounding.

    Attributes:
        recent: the students, of which w_0 is the first.
    """

    def __init__(self, knobs: SdaKnobs) -> None:
        """Args: knobs: with a number above 1 as `k`."""
        super().__init__()
        self.knobs = knobs
        self.number = int(knobs.k)

    def check(self, num_steps: int) -> None:
        """UserError when there are fewer steps than students to average."""
        check_number("sda", self.number, num_steps)

    def start(self, model: nn.Module) -> None:
        """The first teacher is w_0."""
        super().start(model)
        self.recent = RecentWeights(self.number, self.knobs.snapshots, device_of(model))
        self.recent.push(model_tensors(model))

    def before_update(self, model: nn.Module, step: int) -> None:
        """Take w_(step-1) in and let go of the oldest."""
        if step == 1:
            return
        self.recent.push(model_tensors(model))
        own = model_tensors(self.module)
        for position, weights in enumerate(self.recent.held):
            move_towards(own, weights, mean_share(position + 1))

    def state(self) -> dict[str, Any]:
        """The mean and what it is made of."""
        return {**super().state(), **self.recent.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        super().load_state(state)
        self.recent.load_state(state)


def check_number(name: str, number: int, num_steps: int) -> None:
    """UserError when K students are asked for and the training never has so many."""
    if number > num_steps:
        raise UserError(
            f"{name}.k is {number}, but the training has only {num_steps} optimizer steps, so there are never so many "
            f"past students. Lower {name}.k or train longer."
        )


def sda_teacher(knobs: SdaKnobs) -> SelfTeacher | None:
    """The teacher that the knobs describe; none where its loss weighs nothing."""
    if knobs.weight == 0.0:
        return None
    if knobs.teacher == "current":
        return CurrentStudent()
    if knobs.ema is not None:
        return AverageOfStudents(knobs.ema)
    if knobs.k == "all":
        return AverageOfStudents()
    return AverageOfStudents(decay=0.0) if knobs.k == 1 else AverageOfRecent(knobs)
