"""Multilabel: any number of labels per text, each with a sigmoid of its own.

All losses are the mean over the labels, so that their weights mean the same for any number of labels. The
metrics equal scikit-learn's (the tests hold them to it) and are counted here because a bootstrap asks for
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


def soft_label_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Binary cross-entropy against the teacher's softened probabilities, times the temperature squared.

    Args:
        student_logits: [batch, labels]; gradients flow.
        teacher_logits: [batch, labels]; a constant.
        temperature: above 0.

    Returns:
        [batch] in nats, the mean over the labels. Its least value is the teacher's own entropy, not 0.
    """
    probabilities = torch.sigmoid(teacher_logits.detach() / temperature)
    losses = functional.binary_cross_entropy_with_logits(student_logits / temperature, probabilities, reduction="none")
    return losses.mean(dim=-1) * temperature**2


def mixed_label_cross_entropy(
    student_logits: Tensor, targets: Tensor, teacher_logits: Tensor, gold_weights: Tensor
) -> Tensor:
    """Binary cross-entropy against gold_weight * label + (1 - gold_weight) * teacher's probabilities.

    The rule of BAM (Clark et al. 2019, arXiv:1907.04829), which has no multilabel tasks, per label [ours].

    Args:
        student_logits: [batch, labels]; gradients flow.
        targets: [batch, labels] in [0, 1]; not read where the weight is 0.
        teacher_logits: [batch, labels]; a constant.
        gold_weights: [batch] in [0, 1].

    Returns:
        [batch] in nats, the mean over the labels. Its least value is the entropy of the mix, not 0.
    """
    weights = gold_weights[:, None]
    teacher = torch.sigmoid(teacher_logits.detach())
    gold = torch.where(weights > 0.0, targets.to(teacher.dtype), 0.0)
    mixed = weights * gold + (1.0 - weights) * teacher
    return functional.binary_cross_entropy_with_logits(student_logits, mixed, reduction="none").mean(dim=-1)


def micro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 over all decisions pooled; 0 when nothing is labelled and nothing predicted."""
    hits, occurrences = _counts(labels, predictions)
    return float(2 * hits.sum() / max(occurrences.sum(), 1))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 averaged over the labels; one that neither occurs nor is predicted counts 0."""
    hits, occurrences = _counts(labels, predictions)
    return float(np.mean(2 * hits / np.maximum(occurrences, 1)))


def _counts(labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per label: rows where it is labelled and predicted; times labelled plus times predicted."""
    present, predicted = labels.astype(bool), predictions.astype(bool)
    return (present & predicted).sum(axis=0), present.sum(axis=0) + predicted.sum(axis=0)


class Multilabel:
    """Binary cross-entropy against labels and against the teacher's probabilities."""

    type: TaskType = "multilabel"
    default_metric: str = "micro_f1"
    metrics: Mapping[str, Metric] = MappingProxyType({"micro_f1": micro_f1, "macro_f1": macro_f1})

    def targets(self, labels: np.ndarray, spec: TaskSpec) -> np.ndarray:
        """1 where a label is present, float32 [rows, labels]."""
        return labels.astype(np.float32)

    def hard_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy in nats, mean over labels, [batch]; targets [batch, labels] in [0, 1]."""
        losses = functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
        return losses.mean(dim=-1)

    def soft_loss(self, student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
        """See `soft_label_cross_entropy`."""
        return soft_label_cross_entropy(student_logits, teacher_logits, temperature)

    def mixed_loss(
        self, student_logits: Tensor, targets: Tensor, teacher_logits: Tensor, gold_weights: Tensor
    ) -> Tensor:
        """See `mixed_label_cross_entropy`."""
        return mixed_label_cross_entropy(student_logits, targets, teacher_logits, gold_weights)
