"""What every task type provides: losses per example and metrics over a split."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import numpy as np
from torch import Tensor

from serving.errors import UserError
from serving.manifest import TaskSpec, TaskType

Metric: TypeAlias = Callable[[np.ndarray, np.ndarray], float]
"""(labels, predictions) to a number. Predictions are what `serving.answers.decide` gives."""


class Task(Protocol):
    """One task type. Losses are per example: the caller divides by the examples of a whole step."""

    @property
    def type(self) -> TaskType:
        """The registry's key."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Every metric of this type, by the name a recipe uses."""

    @property
    def default_metric(self) -> str:
        """The metric a task is judged by when its recipe names none."""

    def targets(self, labels: np.ndarray, spec: TaskSpec) -> np.ndarray:
        """Labels of a split as `hard_loss` takes them, row by row."""

    def hard_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss against gold labels.

        Args:
            logits: [batch, outputs]; gradients flow.
            targets: [batch] or [batch, outputs], from `targets`.

        Returns:
            [batch], at least 0.
        """

    def soft_loss(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """Loss against a teacher's logits, times the temperature squared.

        The square keeps the gradient the size of the hard loss's gradient at any temperature.

        Args:
            student_logits: [batch, outputs]; gradients flow.
            teacher_logits: [batch, outputs]; a constant: no gradient reaches it.
            temperature: above 0.

        Returns:
            [batch].
        """

    def mixed_loss(
        self, student_logits: Tensor, targets: Tensor, teacher_logits: Tensor, gold_weights: Tensor
    ) -> Tensor:
        """Loss against gold_weight * label + (1 - gold_weight) * teacher, row by row, at temperature 1.

        Source: Clark et al. (2019), arXiv:1907.04829.

        Args:
            student_logits: [batch, outputs]; gradients flow.
            targets: [batch] or [batch, outputs], from `targets`; rows of weight 0 may hold no label.
            teacher_logits: [batch, outputs]; a constant: no gradient reaches it.
            gold_weights: [batch] in [0, 1].

        Returns:
            [batch].
        """


def find_metric(task: Task, name: str | None) -> str:
    """The metric's name, or the default for None; UserError lists the choices and the nearest one."""
    if name is None:
        return task.default_metric
    if name in task.metrics:
        return name
    nearest = difflib.get_close_matches(name, task.metrics, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    raise UserError(f"no {task.type} metric '{name}'. Choose one of: {', '.join(task.metrics)}.{hint}")
