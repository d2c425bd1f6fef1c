"""Metrics of one task on one split, each with its 95% interval over the examples, and figures per class."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from compressor.tasks.registry import TASKS
from export.statistics import bootstrap_interval
from serving.answers import decide
from serving.claims import Interval
from serving.manifest import TaskSpec


def evaluate(
    task: TaskSpec, logits: np.ndarray, labels: np.ndarray, *, samples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Every metric of the task's type, the task's own metric first.

    Args:
        task: how logits become answers.
        logits: [rows, outputs].
        labels: as `compressor.data.splits.Split` holds them, [rows] or [rows, labels].
        samples: resamples of the bootstrap.
        seed: of the resampling.

    Returns:
        By metric name, the value on all rows and its interval over the examples of this one run; it says
        nothing of how another training seed would do.
    """
    predictions = decide(logits, task)
    metrics = TASKS[task.type].metrics
    intervals = {}
    for name in sorted(metrics, key=lambda name: name != task.metric):
        value, low, high = bootstrap_interval(metrics[name], labels, predictions, samples=samples, seed=seed)
        intervals[name] = Interval(metric=name, value=value, low=low, high=high)
    return intervals


def per_class(task: TaskSpec, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of every label, in the order of the logits; empty for regression.

    Args:
        task: how logits become answers.
        logits: [rows, outputs].
        labels: [rows] or [rows, labels].

    Returns:
        One mapping per label: label, precision, recall, f1 (0 where undefined), support (rows that have it).
    """
    if task.type == "regression":
        return []
    predictions = decide(logits, task)
    positions = np.arange(len(task.labels))
    present = labels.astype(bool) if task.type == "multilabel" else labels[:, None] == positions
    predicted = predictions if task.type == "multilabel" else predictions[:, None] == positions
    return [{"label": label, **_figures(present[:, i], predicted[:, i])} for i, label in enumerate(task.labels)]


def _figures(present: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Precision, recall, F1 and support of one label; both arrays bool [rows]."""
    precision, recall, f1, support = precision_recall_fscore_support(
        present, predicted, labels=[True], average=None, zero_division=0
    )
    return {
        "precision": float(precision[0]),
        "recall": float(recall[0]),
        "f1": float(f1[0]),
        "support": int(support[0]),
    }


def confusion(task: TaskSpec, logits: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Rows per (label, answer) of a classification, [classes][classes] in the order of the logits."""
    if task.type != "classification":
        raise ValueError(f"a confusion matrix needs one class per row, task '{task.name}' is {task.type}")
    counts = confusion_matrix(labels, decide(logits, task), labels=np.arange(len(task.labels)))
    return [[int(count) for count in row] for row in counts]
