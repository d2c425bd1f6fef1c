"""Slices of a split: the texts of one class, and those of like length.

A mean over all texts hides a class or a length that lost. Slices overlap: every text has a length, and the texts of
a multilabel task may be of several classes or of none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.manifest import TaskSpec

NUM_LENGTHS = 4
MIN_ROWS = 50

SliceKind = Literal["class", "length"]


@dataclass(frozen=True)
class Slice:
    """Some rows of a split.

    Attributes:
        kind: what they have in common.
        name: a label, or a range of token counts such as `5 to 12 tokens`.
        rows: their positions, ascending.
        label: position of the label, for a class.
    """

    kind: SliceKind
    name: str
    rows: NDArray[np.intp]
    label: int | None = None


def slices_of(task: TaskSpec, labels: NDArray[Any], lengths: Sequence[int]) -> list[Slice]:
    """The slices of a split that hold a text: every class, then the quarters by length.

    Args:
        task: regressions have no classes.
        labels: [rows] or, multilabel, [rows, labels].
        lengths: tokens of every text as the model reads it.
    """
    found = [*_by_class(task, np.asarray(labels)), *_by_length(np.asarray(lengths))]
    return [part for part in found if len(part.rows)]


def large_enough(slices: Sequence[Slice]) -> tuple[list[Slice], list[Slice]]:
    """The slices with at least `MIN_ROWS` texts, and those that are left out because they have fewer."""
    kept = [part for part in slices if len(part.rows) >= MIN_ROWS]
    return kept, [part for part in slices if len(part.rows) < MIN_ROWS]


def _by_class(task: TaskSpec, labels: NDArray[Any]) -> list[Slice]:
    if task.type == "regression":
        return []
    has = labels.astype(bool) if task.type == "multilabel" else labels[:, np.newaxis] == np.arange(len(task.labels))
    return [Slice("class", name, np.flatnonzero(has[:, place]), place) for place, name in enumerate(task.labels)]


def _by_length(lengths: NDArray[Any]) -> list[Slice]:
    """Quarters of the texts, cut at quantiles of the token counts; equal counts are never cut apart."""
    cuts = np.quantile(lengths, np.linspace(0.0, 1.0, NUM_LENGTHS + 1)[1:-1], method="higher")
    edges = np.unique([lengths.min(), *cuts, lengths.max() + 1])
    masks = [(lengths >= low) & (lengths < high) for low, high in pairwise(edges)]
    return [Slice("length", _range(lengths[mask]), np.flatnonzero(mask)) for mask in masks if mask.any()]


def _range(lengths: NDArray[Any]) -> str:
    low, high = int(lengths.min()), int(lengths.max())
    return f"{low} tokens" if low == high else f"{low} to {high} tokens"
