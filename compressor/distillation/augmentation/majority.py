"""A teacher that answers worse than always the same cannot label texts."""

from __future__ import annotations

import numpy as np

from serving.answers import decide
from serving.errors import UserError
from serving.manifest import TaskSpec


def check_above_majority(logits: np.ndarray, labels: np.ndarray, task: TaskSpec) -> tuple[float, float]:
    """The teacher's error on labelled rows and that of the best constant answer; UserError where the first is larger.

    An error is a wrong class; of several labels the share of wrong ones; of a number the squared distance.

    Args:
        logits: the teacher's, float32 [rows, outputs].
        labels: as a split holds them, [rows] or [rows, labels].
        task: whose rows they are.
    """
    found = error_of(decide(logits, task), labels, task)
    best = error_of(_constant(labels, task), labels, task)
    if not found <= best:  # also of a teacher whose answers are no numbers
        raise UserError(
            f"the teacher of task '{task.name}' errs more on its {len(labels)} training rows ({found:.3f}) than the "
            f"same answer for all of them ({best:.3f}), so it cannot label further texts. Train it longer, give it a "
            "source, or take another teacher."
        )
    return found, best


def error_of(answers: np.ndarray, labels: np.ndarray, task: TaskSpec) -> float:
    """Mean error, at least 0; see `check_above_majority`."""
    if task.type == "regression":
        return float(np.mean((answers.reshape(-1) - labels) ** 2))
    return float(np.mean(answers != labels))


def _constant(labels: np.ndarray, task: TaskSpec) -> np.ndarray:
    if task.type == "regression":
        return np.full(len(labels), labels.mean())
    if task.type == "multilabel":
        return np.broadcast_to(labels.mean(axis=0) > 0.5, labels.shape)
    return np.full(len(labels), np.bincount(labels).argmax())
