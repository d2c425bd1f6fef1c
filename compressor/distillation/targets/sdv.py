"""Self-distillation from voting students (SDV): the teacher's logits are the mean of those of the last K students.

Source: Xu, Qiu, Zhou and Huang (2020), "Improving BERT fine-tuning via self-ensemble and self-distillation",
arXiv:2002.10345 [paper]. The students are those of SDA: w_(s-2) .. w_(s-1-K) in step s, as many as exist, w_0 in
step 1. Each costs a copy and a forward pass per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressor.distillation.knobs import SdvKnobs
from compressor.distillation.targets.recent import RecentWeights
from compressor.distillation.targets.sda import check_number
from compressor.distillation.targets.self_teacher import SelfTeacher, frozen_logits
from compressor.distillation.weights.average import copy_into, device_of, frozen_copy, hold, model_tensors


class VotingStudents:
    """Past students that answer one after the other through one second model.

    On the device the second model points at their copies and has no weights of its own; from the CPU each is
    copied into it.

    Attributes:
        module: the second model, in eval mode.
        recent: the students, of which w_0 is the first.
    """

    def __init__(self, knobs: SdvKnobs) -> None:
        """Args: knobs: with a number as `k`."""
        self.knobs = knobs
        self.number = int(knobs.k)
        self.module: nn.Module = nn.Identity()

    def check(self, num_steps: int) -> None:
        """UserError when there are fewer steps than students to ask."""
        check_number("sdv", self.number, num_steps)

    def start(self, model: nn.Module) -> None:
        """The first teacher is w_0."""
        self.module = frozen_copy(model)
        self.recent = RecentWeights(self.number, self.knobs.snapshots, device_of(model))
        self.recent.push(model_tensors(model))
        self._put_in(self.recent.held[0])

    def logits(self, model: nn.Module, tensors: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean over one forward pass per student."""
        answers: list[dict[str, Tensor]] = []
        for weights in self.recent.held:
            self._put_in(weights)
            answers.append(frozen_logits(self.module, tensors, rows))
        return {name: torch.stack([answer[name] for answer in answers]).mean(dim=0) for name in answers[0]}

    def _put_in(self, weights: list[Tensor]) -> None:
        if self.knobs.snapshots == "cpu":
            copy_into(model_tensors(self.module), weights)
        else:
            hold(model_tensors(self.module), weights)

    def before_update(self, model: nn.Module, step: int) -> None:
        """Take w_(step-1) in and let go of the oldest; w_0 is there already."""
        if step > 1:
            self.recent.push(model_tensors(model))

    def state(self) -> dict[str, Any]:
        """The students' weights."""
        return self.recent.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.recent.load_state(state)
        self._put_in(self.recent.held[-1])


def sdv_teacher(knobs: SdvKnobs) -> SelfTeacher | None:
    """The teacher that the knobs describe; none where its loss weighs nothing."""
    return None if knobs.weight == 0.0 else VotingStudents(knobs)
