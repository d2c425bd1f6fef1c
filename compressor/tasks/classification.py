"""Classification: one label out of several; softmax over the logits.

The metrics equal scikit-learn's (the tests hold them to it) and are counted here because a bootstrap asks for
each a thousand times.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compressor.tasks.task import Metric
from serving.manifest import TaskSpec, TaskType


def soft_target_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of the softened distributions, times the temperature squared.

    Source: Hinton, Vinyals and Dean (2015), arXiv:1503.02531, section 2.

    Args:
        student_logits: [batch, classes]; gradients flow.
        teacher_logits: [batch, classes]; a constant.
        temperature: above 0.

    Returns:
        [batch] in nats, summed over the classes, at least 0 up to rounding.
    """
    student = functional.log_softmax(student_logits / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.detach() / temperature, dim=-1)
    divergence = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return divergence * temperature**2


def mixed_distribution_cross_entropy(
    student_logits: Tensor, targets: Tensor, teacher_logits: Tensor, gold_weights: Tensor
) -> Tensor:
    """Cross-entropy against gold_weight * label + (1 - gold_weight) * teacher's distribution.

    Source: Clark et al. (2019), arXiv:1907.04829 (BAM).

    Args:
        student_logits: [batch, classes]; gradients flow.
        targets: class positions, int64 [batch]; not read where the weight is 0.
        teacher_logits: [batch, classes]; a constant.
        gold_weights: [batch] in [0, 1].

    Returns:
        [batch] in nats. Its least value is the entropy of the mix, not 0.
    """
    is_read = gold_weights > 0.0
    gold = functional.one_hot(torch.where(is_read, targets, 0), student_logits.shape[-1])
    teacher = functional.softmax(teacher_logits.detach(), dim=-1)
    weights = gold_weights[:, None]
    mixed = weights * gold + (1.0 - weights) * teacher
    return -(mixed * functional.log_softmax(student_logits, dim=-1)).sum(dim=-1)


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of rows answered as labelled, in [0, 1]."""
    return float(np.mean(labels == predictions))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 averaged over the classes that occur in labels or predictions; a class never predicted counts 0."""
    counts = _confusion(labels, predictions)
    occurrences = counts.sum(axis=0) + counts.sum(axis=1)
    occurs = occurrences > 0
    return float(np.mean(2 * np.diag(counts)[occurs] / occurrences[occurs]))


def mcc(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Matthews correlation, in [-1, 1]; 0 when labels or predictions are constant."""
    counts = _confusion(labels, predictions)
    labelled, predicted, rows = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    covariance = np.trace(counts) * rows - labelled @ predicted
    variances = (rows**2 - labelled @ labelled) * (rows**2 - predicted @ predicted)
    return float(covariance / np.sqrt(variances)) if variances > 0 else 0.0


def _confusion(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Rows per (label, prediction), float64 [classes, classes]."""
    classes = int(max(labels.max(), predictions.max())) + 1
    counts = np.bincount(labels * classes + predictions, minlength=classes**2)
    return counts.reshape(classes, classes).astype(np.float64)


class Classification:
    """Cross-entropy against the label, KL divergence against the teacher."""

    type: TaskType = "classification"
    default_metric: str = "accuracy"
    metrics: Mapping[str, Metric] = MappingProxyType({"accuracy": accuracy, "macro_f1": macro_f1, "mcc": mcc})

    def targets(self, labels: np.ndarray, spec: TaskSpec) -> np.ndarray:
        """Class positions, int64 [rows]."""
        return labels.astype(np.int64)

    def hard_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, [batch]; targets are class positions, int64 [batch]."""
        return functional.cross_entropy(logits, targets, reduction="none")

    def soft_loss(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """See `soft_target_divergence`."""
        return soft_target_divergence(student_logits, teacher_logits, temperature)

    def mixed_loss(
        self, student_logits: Tensor, targets: Tensor, teacher_logits: Tensor, gold_weights: Tensor
    ) -> Tensor:
        """See `mixed_distribution_cross_entropy`."""
        return mixed_distribution_cross_entropy(student_logits, targets, teacher_logits, gold_weights)
