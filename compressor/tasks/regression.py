"""Regression: one number per text; the logit is in units of the training range.

Training, the teacher's outputs and the losses live on the scale where the training labels run from 0 to 1;
the user sees low + logit * (high - low). Metrics are in the user's units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from compressor.tasks.task import Metric
from serving.manifest import TaskSpec, TaskType


def mixed_value_error(student_logits: Tensor, targets: Tensor, teacher_logits: Tensor, gold_weights: Tensor) -> Tensor:
    """Squared error to gold_weight * label + (1 - gold_weight) * teacher's output, all on the scale of the logits.

    Source: Clark et al. (2019), arXiv:1907.04829 (BAM).

    Args:
        student_logits: [batch, 1]; gradients flow.
        targets: [batch], scaled; not read where the weight is 0.
        teacher_logits: [batch, 1]; a constant.
        gold_weights: [batch] in [0, 1].

    Returns:
        [batch], at least 0.
    """
    gold = torch.where(gold_weights > 0.0, targets.to(student_logits.dtype), 0.0)
    mixed = gold_weights * gold + (1.0 - gold_weights) * teacher_logits.detach().squeeze(-1)
    return (student_logits.squeeze(-1) - mixed).square()


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Linear correlation, in [-1, 1]; 0 when labels or predictions are constant."""
    return _correlation(stats.pearsonr, labels, predictions)


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Rank correlation, in [-1, 1]; 0 when labels or predictions are constant."""
    return _correlation(stats.spearmanr, labels, predictions)


def neg_mean_squared_error(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Minus the mean squared error, in squared units of the labels; at most 0, higher is better as everywhere."""
    return -float(np.mean(np.square(labels - predictions, dtype=np.float64)))


def _correlation(measure: Callable[..., tuple[float, float]], labels: np.ndarray, predictions: np.ndarray) -> float:
    """A correlation with scipy's undefined cases settled: nothing varies, nothing is explained."""
    if _is_constant(labels) or _is_constant(predictions):
        return 0.0
    return float(measure(np.asarray(labels, np.float64), np.asarray(predictions, np.float64))[0])


def _is_constant(values: np.ndarray) -> bool:
    """Whether values differ by no more than float32 rounding; there scipy warns that the result is noise."""
    return len(values) < 2 or bool(np.ptp(values) <= 1e-6 * np.abs(values).max())


class Regression:
    """Squared error against the scaled label and against the teacher's output; temperature plays no part."""

    type: TaskType = "regression"
    default_metric: str = "pearson"
    metrics: Mapping[str, Metric] = MappingProxyType(
        {"pearson": pearson, "spearman": spearman, "neg_mean_squared_error": neg_mean_squared_error}
    )

    def targets(self, labels: np.ndarray, spec: TaskSpec) -> np.ndarray:
        """Labels on the scale of the logits: the training range becomes 0 to 1, float32 [rows]."""
        low, high = spec.range
        return ((labels.astype(np.float64) - low) / (high - low)).astype(np.float32)

    def hard_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Squared error on the scaled values, [batch]; logits [batch, 1], targets [batch]."""
        return (logits.squeeze(-1) - targets.to(logits.dtype)).square()

    def soft_loss(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """Squared distance to the teacher's scaled output, [batch]; the temperature is ignored."""
        return (student_logits - teacher_logits.detach()).square().squeeze(-1)

    def mixed_loss(
        self, student_logits: Tensor, targets: Tensor, teacher_logits: Tensor, gold_weights: Tensor
    ) -> Tensor:
        """See `mixed_value_error`."""
        return mixed_value_error(student_logits, targets, teacher_logits, gold_weights)
