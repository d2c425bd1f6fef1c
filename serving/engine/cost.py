"""What a call of the model costs, fitted to measured shapes at warm-up, and when sharing a call saves time.

A call over `rows` texts padded to `longest` tokens takes about

    fixed + per_token * rows * longest + per_square * rows * longest^2

seconds: the price of starting a call, the matrix products and the attention. Two calls made one save `fixed`
and pay for the padding, so texts of like length may gain and texts of unlike length lose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product

import msgspec
import numpy as np
from numpy.typing import NDArray

MERGE_GAIN = 0.05
"""A merge must save at least this share of the time of separate calls: less is within the noise of the fit."""

LENGTHS = (1 / 16, 1 / 4, 1 / 2, 1.0)
"""Measured lengths, as shares of the model's max_length."""

GRID_ROWS = (1, 2, 8)
REPEATS = 3

Shape = tuple[int, int]
"""(rows, longest)."""


class CostModel(msgspec.Struct, frozen=True):
    """Seconds of a call as a function of its shape; all coefficients are at least 0.

    Attributes:
        fixed: seconds of any call.
        per_token: seconds per token, padding included.
        per_square: seconds per row and squared length.
        merges: whether the measurements showed any merge of equal lengths that gains.
    """

    fixed: float
    per_token: float
    per_square: float
    merges: bool = True

    def seconds(self, rows: int, longest: int) -> float:
        """Predicted duration of one call."""
        return self.fixed + rows * longest * (self.per_token + self.per_square * longest)

    def gains(self, shape: Shape, tokens: int) -> bool:
        """Whether one more text is cheaper inside a call than in one of its own.

        Args:
            shape: (rows, longest) of the call so far.
            tokens: length of the text.
        """
        if not self.merges:
            return False
        rows, longest = shape
        separate = self.seconds(rows, longest) + self.seconds(1, tokens)
        together = self.seconds(rows + 1, max(longest, tokens))
        return separate - together >= MERGE_GAIN * self.seconds(1, tokens)


def fit(measured: Mapping[Shape, float]) -> CostModel:
    """Non-negative least squares on relative errors.

    Args:
        measured: shape -> seconds; at least one.

    Returns:
        The model; without several rows in any shape, or without a gain there, one that never merges.
    """
    shapes = np.array(list(measured), dtype=np.float64)
    seconds = np.array(list(measured.values()))
    rows, longest = shapes[:, 0], shapes[:, 1]
    columns = np.stack([np.ones_like(rows), rows * longest, rows * longest**2], axis=1) / seconds[:, np.newaxis]
    fixed, per_token, per_square = _non_negative(columns)
    return CostModel(fixed, per_token, per_square, merges=_shows_a_gain(measured))


def warm_up(
    measure: Callable[[int, int], float],
    max_length: int,
    *,
    rows: Sequence[int] = GRID_ROWS,
    box_seconds: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> CostModel:
    """Measure a small grid of shapes within a time box, and fit.

    Args:
        measure: runs one call of (rows, longest) and returns its seconds.
        max_length: the longest text, in tokens.
        rows: rows of the grid; (1,) where texts never share a call.
        box_seconds: no measurement starts after this, but for the first one of each length.
        clock: in seconds.
    """
    end = clock() + box_seconds
    measured: dict[Shape, float] = {}
    lengths = sorted({max(2, round(max_length * share)) for share in LENGTHS})
    shapes = [(1, length) for length in lengths]
    shapes += [(count, length) for length in lengths[:-1] for count in rows if count > 1]
    for repeat in range(REPEATS + 1):  # rounds, so that a busy moment of the machine does not hit one shape alone
        for number, shape in enumerate(shapes):
            if clock() >= end and (repeat or number >= len(lengths)):
                return fit(measured)
            seconds = max(measure(*shape), 1e-7)
            if repeat < 2:  # the first call of a shape allocates, so it counts only where no other does
                measured[shape] = seconds
            measured[shape] = min(measured[shape], seconds)
    return fit(measured)


def _non_negative(columns: NDArray[np.float64]) -> tuple[float, float, float]:
    """Least squares for a right side of ones: the best of all subsets whose coefficients are at least 0."""
    ones = np.ones(len(columns))
    best, best_error = np.zeros(3), np.inf
    for chosen in product((True, False), repeat=3):
        active = np.flatnonzero(chosen)
        if not len(active):
            continue
        solution = np.linalg.lstsq(columns[:, active], ones, rcond=None)[0]
        error = float(np.sum((columns[:, active] @ solution - ones) ** 2))
        if (solution >= 0).all() and error < best_error - 1e-12:
            best_error = error
            best = np.zeros(3)
            best[active] = solution
    return float(best[0]), float(best[1]), float(best[2])


def _shows_a_gain(measured: Mapping[Shape, float]) -> bool:
    return any(
        seconds <= (1 - MERGE_GAIN) * rows * measured[1, longest]
        for (rows, longest), seconds in measured.items()
        if rows > 1 and (1, longest) in measured
    )
