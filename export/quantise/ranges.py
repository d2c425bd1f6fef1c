"""Histograms of activations in bounded memory: bins whose width is a power of two, doubled when they run out.

A bin covers [k * 2^exponent, (k + 1) * 2^exponent). The exponent depends on the smallest and largest value alone,
and two bins of one exponent are exactly one bin of the next, so histograms of parts, merged in any order, are
equal to the histogram of the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 16384
_FINEST = -40
_MANTISSA_BITS = 50


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often values fell into bins.

    Attributes:
        exponent: bins are 2^exponent wide.
        first: number of the first bin, which begins at first * 2^exponent.
        counts: [bins] values per bin, at most `NUM_BINS` bins.
        low: smallest value.
        high: largest value.
    """

    exponent: int
    first: int
    counts: NDArray[np.int64]
    low: float
    high: float

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def edges(self) -> NDArray[np.float64]:
        """[bins + 1] where the bins begin and end."""
        return np.ldexp(np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64), self.exponent)

    @property
    def centres(self) -> NDArray[np.float64]:
        """[bins] the middle of each bin, within what was seen."""
        edges = self.edges
        return np.clip((edges[:-1] + edges[1:]) / 2, self.low, self.high)

    def share_outside(self, low: float, high: float) -> float:
        """Share of the values beyond a range, counted by the middles of the bins."""
        centres = self.centres
        return float(self.counts[(centres < low) | (centres > high)].sum() / self.total)


def histogram_of(values: NDArray[Any]) -> Histogram:
    """The histogram of some values.

    Args:
        values: any shape, at least one, all finite.

    Raises:
        ValueError: there is none, or one is NaN or infinite.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    if not flat.size or not np.isfinite(flat).all():
        raise ValueError("a histogram needs values, all of them finite")
    low, high = float(flat.min()), float(flat.max())
    exponent = _exponent(low, high)
    first = _bin(low, exponent)
    places = np.floor(np.ldexp(flat, -exponent)).astype(np.int64) - first
    return Histogram(exponent, first, np.bincount(places).astype(np.int64), low, high)


def merge(one: Histogram, other: Histogram) -> Histogram:
    """The histogram of the values of both."""
    low, high = min(one.low, other.low), max(one.high, other.high)
    exponent = _exponent(low, high)
    first = _bin(low, exponent)
    counts = np.zeros(_bin(high, exponent) - first + 1, dtype=np.int64)
    for part in (one, other):
        places = np.arange(part.first, part.first + len(part.counts)) >> (exponent - part.exponent)
        np.add.at(counts, places - first, part.counts)
    return Histogram(exponent, first, counts, low, high)


def _exponent(low: float, high: float) -> int:
    """The smallest exponent with which the bins suffice and stay exact."""
    largest = max(abs(low), abs(high))
    exponent = max(_FINEST, math.frexp(largest)[1] - _MANTISSA_BITS)
    if high > low:
        exponent = max(exponent, math.frexp((high - low) / NUM_BINS)[1] - 2)
    while _bin(high, exponent) - _bin(low, exponent) >= NUM_BINS:
        exponent += 1
    return exponent


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))
