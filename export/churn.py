"""Churn: whose answers changed when one model replaced another, in which direction, and in which slice most.

Two models with the same accuracy may disagree on many texts, and a model may lose a whole class while the mean over
all texts stays. Both are counted here, on the same texts.

Source: Milani Fard et al. (2016), Launch and Iterate: Reducing Prediction Churn, NeurIPS 29. The interval of a drop is
Bonett and Price (2012), J. Educational and Behavioral Statistics 37: one answer lost and one won are added, so that a
slice without a flip is not said to be certain. Slices and the correction for choosing among them (Bonferroni) are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from export.slices import Slice, SliceKind, large_enough, slices_of
from export.statistics import CONFIDENCE, share_interval
from serving.claims import Interval
from serving.manifest import TaskSpec

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Flips(msgspec.Struct, frozen=True, kw_only=True):
    """How many answers changed, by what they were before and are after."""

    right_to_wrong: int
    wrong_to_right: int
    wrong_to_wrong: int

    @property
    def total(self) -> int:
        """All answers that changed."""
        return self.right_to_wrong + self.wrong_to_right + self.wrong_to_wrong


class SliceChurn(msgspec.Struct, frozen=True, kw_only=True):
    """What changed in one slice.

    Attributes:
        kind: class or length.
        name: of the slice.
        rows: texts in it.
        flips: None for a regression, whose values have no right or wrong.
        drop: quality before minus after; its interval allows for the choice among all slices.
    """

    kind: SliceKind
    name: str
    rows: int
    flips: Flips | None
    drop: Interval


class Churn(msgspec.Struct, frozen=True, kw_only=True):
    """What changed from one model to another on the same texts.

    Attributes:
        rows: texts.
        flips: None for a regression.
        share: of the texts with another answer; None for a regression.
        drop: quality before minus after: the share of right answers, all labels of a text counted as one; for a
            regression the mean absolute error after minus before, as a share of the training labels' range.
        slices: those with enough texts. In a class of a multilabel task the answer is that about its label alone.
        left_out: names of the slices with too few texts.
    """

    rows: int
    flips: Flips | None
    share: Interval | None
    drop: Interval
    slices: tuple[SliceChurn, ...]
    left_out: tuple[str, ...]

    @property
    def worst(self) -> SliceChurn | None:
        """The slice that lost most; None where none has enough texts."""
        return max(self.slices, key=lambda part: part.drop.value, default=None)

    @property
    def worst_drop(self) -> tuple[float, float, float] | None:
        """The largest drop of a slice with its 95% interval, which holds however the slice was chosen.

        The intervals of all slices hold together, so the largest true drop lies between the largest low end and the
        largest high end.
        """
        if not self.slices:
            return None
        drops = [part.drop for part in self.slices]
        return (
            max(drop.value for drop in drops),
            max(drop.low for drop in drops),
            max(drop.high for drop in drops),
        )


def measure_churn(
    task: TaskSpec, labels: NDArray[Any], before: NDArray[Any], after: NDArray[Any], lengths: Sequence[int]
) -> Churn:
    """Compare the decisions of two models on the same texts.

    Args:
        task: how right and wrong are told.
        labels: [rows] or, multilabel, [rows, labels]; a regression's in their own units.
        before: decisions of the model that is replaced, as `serving.answers.decide` gives them.
        after: decisions of the other.
        lengths: tokens of every text.
    """
    kept, left_out = large_enough(slices_of(task, labels, lengths))
    share = 1.0 - (1.0 - CONFIDENCE) / max(len(kept), 1)
    everything = Slice("length", "", np.arange(len(labels)))
    flips = _flips(task, labels, before, after, everything)
    changed = share_interval(flips.total, len(labels)) if flips else None
    return Churn(
        rows=len(labels),
        flips=flips,
        share=Interval(metric="share", value=changed[0], low=changed[1], high=changed[2]) if changed else None,
        drop=_drop(task, labels, before, after, everything, CONFIDENCE),
        slices=tuple(
            SliceChurn(
                kind=part.kind,
                name=part.name,
                rows=len(part.rows),
                flips=_flips(task, labels, before, after, part),
                drop=_drop(task, labels, before, after, part, share),
            )
            for part in kept
        ),
        left_out=tuple(part.name for part in left_out),
    )


def drop_interval(losses: Floats, *, is_binary: bool, confidence: float) -> tuple[float, float]:
    """The interval of a mean loss of quality over paired rows.

    Args:
        losses: quality before minus after, [rows].
        is_binary: whether each is -1, 0 or 1: then a loss and a gain are added (Bonett and Price); otherwise it is
            Student's.
        confidence: that the interval holds the true mean, in (0, 1).

    Returns:
        Both ends; the whole scale where a single row tells nothing of the spread.
    """
    tail = (1.0 + confidence) / 2.0
    if is_binary:
        rows = np.concatenate([losses, [1.0, -1.0]])
        centre, margin = float(rows.mean()), float(norm.ppf(tail) * rows.std() / math.sqrt(len(rows)))
        return max(-1.0, centre - margin), min(1.0, centre + margin)
    if len(losses) < 2:
        return -1.0, 1.0
    margin = float(t.ppf(tail, len(losses) - 1) * losses.std(ddof=1) / math.sqrt(len(losses)))
    return float(losses.mean()) - margin, float(losses.mean()) + margin


def _drop(
    task: TaskSpec, labels: NDArray[Any], before: NDArray[Any], after: NDArray[Any], part: Slice, confidence: float
) -> Interval:
    losses = _quality(task, labels, before, part) - _quality(task, labels, after, part)
    low, high = drop_interval(losses, is_binary=task.type != "regression", confidence=confidence)
    return Interval(metric="drop", value=float(losses.mean()), low=low, high=high)


def _quality(task: TaskSpec, labels: NDArray[Any], decisions: NDArray[Any], part: Slice) -> Floats:
    """Per row of the slice: whether the answer is right, or for a regression how near it comes."""
    if task.type == "regression":
        low, high = task.range
        errors = np.abs(decisions[part.rows] - np.asarray(labels, dtype=np.float64)[part.rows])
        return np.asarray(1.0 - errors / ((high - low) or 1.0), dtype=np.float64)
    return _is_right(task, labels, decisions, part).astype(np.float64)


def _flips(
    task: TaskSpec, labels: NDArray[Any], before: NDArray[Any], after: NDArray[Any], part: Slice
) -> Flips | None:
    if task.type == "regression":
        return None
    was_right, is_right = (_is_right(task, labels, decisions, part) for decisions in (before, after))
    changed = ~_same(_of_slice(before, part), _of_slice(after, part))
    return Flips(
        right_to_wrong=int((was_right & ~is_right).sum()),
        wrong_to_right=int((~was_right & is_right).sum()),
        wrong_to_wrong=int((~was_right & ~is_right & changed).sum()),
    )


def _is_right(task: TaskSpec, labels: NDArray[Any], decisions: NDArray[Any], part: Slice) -> Bools:
    truth = np.asarray(labels).astype(bool) if task.type == "multilabel" else np.asarray(labels)
    return _same(_of_slice(truth, part), _of_slice(decisions, part))


def _of_slice(answers: NDArray[Any], part: Slice) -> NDArray[Any]:
    """The slice's rows; of a multilabel task's class only the column of its label."""
    rows = answers[part.rows]
    return rows if rows.ndim == 1 or part.label is None else rows[:, part.label]


def _same(first: NDArray[Any], second: NDArray[Any]) -> Bools:
    """Whether two answers are equal, row by row; several labels must all be."""
    equal = np.asarray(first == second)
    return np.asarray(equal.all(axis=1)) if equal.ndim > 1 else equal
