"""From logits to answers: temperature, softmax and sigmoid, thresholds, ranges and top-k.

A student's answers are read here and nowhere else, so training reports, parity checks and the server
cannot disagree about what a row of logits says.
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.errors import UserError
from serving.manifest import TaskSpec

DEFAULT_THRESHOLD = 0.5
MANY_LABELS = 64
"""From so many on, arrays are faster than a loop over the labels of one text."""
_SCORE = itemgetter(1)


def probabilities(logits: ArrayLike, task: TaskSpec) -> NDArray[np.float64]:
    """What the logits say, in the units a user reads.

    Args:
        logits: [batch, outputs].
        task: whose temperature divides the logits first, or whose range scales a regression's.

    Returns:
        [batch, outputs]: each row sums to one (classification), each entry in [0, 1] by itself
        (multilabel), or values in the labels' own units (regression, not clipped).
    """
    scaled = np.asarray(logits, dtype=np.float64)
    if task.type == "regression":
        low, high = task.range
        return low + scaled * (high - low)
    scaled = scaled / task.temperature
    return _softmax(scaled) if task.type == "classification" else _sigmoid(scaled)


def decide(logits: ArrayLike, task: TaskSpec) -> NDArray[Any]:
    """One decision per row.

    Args:
        logits: [batch, outputs].
        task: whose thresholds a multilabel task's probabilities are held against (0.5 without any).

    Returns:
        classification: int64 [batch], the first label of the highest logit; multilabel: bool
        [batch, labels]; regression: float64 [batch].
    """
    if task.type == "classification":
        return np.asarray(np.argmax(logits, axis=1), dtype=np.int64)
    values = probabilities(logits, task)
    if task.type == "regression":
        return values[:, 0]
    return np.asarray(values >= np.asarray(task.thresholds or DEFAULT_THRESHOLD))


def answer(logits_row: ArrayLike, task: TaskSpec, top_k: int | None = None) -> dict[str, Any]:
    """The answer for one text, ready for JSON.

    Args:
        logits_row: [outputs].
        task: how to read them.
        top_k: how many labels `scores` names, from the highest down; None for all.

    Returns:
        classification: `label`, its `score`, and `scores`; multilabel: `labels` that reach their
        thresholds, and `scores`; regression: `value`.

    Raises:
        UserError: `top_k` is below 1.
    """
    return answer_rows(np.asarray(logits_row)[np.newaxis, :], task, top_k)[0]


def answer_rows(logits: ArrayLike, task: TaskSpec, top_k: int | None = None) -> list[dict[str, Any]]:
    """The answers for several texts, each as `answer` gives it alone, at a fraction of its cost.

    Args:
        logits: [texts, outputs].
        task: how to read them.
        top_k: see `answer`.

    Raises:
        UserError: `top_k` is below 1.
    """
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k is {top_k}; it is the number of labels to show, at least 1. Leave it out for all")
    if task.type == "classification" and len(task.labels) < MANY_LABELS:
        answers = []
        for row in np.asarray(logits).tolist():  # no comprehension: before Python 3.12 each is a call
            answers.append(_choose(row, task, top_k))
        return answers
    decisions = decide(logits, task).tolist()
    if task.type == "regression":
        return [{"value": value} for value in decisions]
    values = probabilities(logits, task)
    orders = np.argsort(-values, axis=1, kind="stable")[:, :top_k].tolist()
    rows = zip(decisions, values.tolist(), orders, strict=True)
    return [_answer(decision, row, order, task) for decision, row, order in rows]


def _answer(decision: Any, row: list[float], order: list[int], task: TaskSpec) -> dict[str, Any]:
    """One answer with labels: the decision (an index, or one truth per label), probabilities, and their order."""
    labels = task.labels
    scores = {labels[index]: row[index] for index in order}
    if task.type == "classification":
        return {"label": labels[decision], "score": row[decision], "scores": scores}
    present = [label for label, is_present in zip(labels, decision, strict=True) if is_present]
    return {"labels": present, "scores": scores}


def _choose(logits: list[float], task: TaskSpec, top_k: int | None) -> dict[str, Any]:
    """The answer of a classification with few labels; plain floats are faster here than arrays of a dozen numbers."""
    highest, temperature = max(logits), task.temperature
    powers, scores = [], []
    for logit in logits:
        powers.append(math.exp((logit - highest) / temperature))
    total = sum(powers)
    for power in powers:
        scores.append(power / total)
    ranked = sorted(zip(task.labels, scores, strict=True), key=_SCORE, reverse=True)  # equal ones in label order
    best = logits.index(highest)
    return {"label": task.labels[best], "score": scores[best], "scores": dict(ranked[:top_k])}


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last axis, without overflow for any finite logits."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logistic function, exact in both tails."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))
