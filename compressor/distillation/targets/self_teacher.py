"""The student as its own teacher: what the trainer tells such a teacher, the loss, and the ablation.

Source of the loss: Xu, Qiu, Zhou and Huang (2020), arXiv:2002.10345: lambda * MSE on the logits, no softmax and no
temperature [paper]; the mean over outputs and examples is ours. The members are `sda` and `sdv`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compressor.distillation.targets.term import TaskBatch


class SelfTeacher(Protocol):
    """A teacher made of the student's own weights w_0, w_1, ...; step s is taken from w_(s-1)."""

    def check(self, num_steps: int) -> None:
        """UserError when a training of so many optimizer steps cannot have this teacher."""

    def start(self, model: nn.Module) -> None:
        """A training begins from the model's weights, w_0; before `load_state` where it is resumed."""

    def logits(self, model: nn.Module, tensors: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the teacher says of a micro-batch, without gradient; random states are not touched.

        Args:
            model: the student, which holds w_(s-1) in step s.
            tensors: inputs of a TaskModel, [batch, tokens].
            rows: per task its positions in the batch.

        Returns:
            Per task [rows of the task, outputs].
        """

    def before_update(self, model: nn.Module, step: int) -> None:
        """Optimizer step `step` (from 1) is about to be taken: the model still holds w_(step-1)."""

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs: numbers and tensors."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""


def logit_distance(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared distance of logits, mean over the outputs.

    Args:
        student_logits: [rows, outputs]; gradients flow. In regression the output on the training range as 0 to 1.
        teacher_logits: [rows, outputs]; a constant.

    Returns:
        [rows], at least 0.
    """
    return (student_logits - teacher_logits.detach()).square().mean(dim=-1)


@dataclass(frozen=True)
class SelfDistance:
    """The distance to the self-teacher's logits over all rows, with or without label.

    Attributes:
        weight: lambda, above 0.
    """

    weight: float
    name: str = "self"
    reads_teacher = False

    def loss(self, batch: TaskBatch) -> Tensor:
        """Sum over all rows, times the weight."""
        if batch.self_logits is None:
            raise RuntimeError("a distance to the self-teacher was asked for, but the plan has no self-teacher")
        return self.weight * logit_distance(batch.logits, batch.self_logits).sum()


class CurrentStudent:
    """Ablation [ours]: the teacher is the current student in eval mode, so that only dropout is taught away."""

    def check(self, num_steps: int) -> None:
        """Always possible."""

    def start(self, model: nn.Module) -> None:
        """Nothing is held."""

    def logits(self, model: nn.Module, tensors: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One more forward pass of the student, without dropout."""
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            return frozen_logits(model, tensors, rows)
        finally:
            for module, was_training in modes:
                module.training = was_training

    def before_update(self, model: nn.Module, step: int) -> None:
        """Nothing to fold in."""

    def state(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


@torch.no_grad()
def frozen_logits(module: nn.Module, tensors: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One forward pass of a TaskModel without gradient; float32, or float64 where the module computes in it."""
    found: dict[str, Tensor] = module(**tensors, rows=rows)
    return {name: logits if logits.dtype == torch.float64 else logits.float() for name, logits in found.items()}
