"""Ranges from histograms: how far the 256 steps of an activation reach, and what is clipped.

Sources: percentiles: McKinstry et al. (2018), arXiv:1809.04191; entropy: Migacz (2017), "8-bit inference with
TensorRT"; least squares: Banner et al. (2018), arXiv:1810.05723.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from export.quantise.integers import LEVELS, affine
from export.quantise.ranges import Histogram

Range = tuple[float, float]
NUM_CANDIDATES = 128
_SMALLEST_SHARE = 1 / 512
_SMALLEST = 1e-12


def percentile_range(histogram: Histogram, percent: float) -> Range:
    """The central share of the values, in percent; half of what is left is clipped on either side."""
    tail = (1 - percent / 100) / 2 * histogram.total
    below = np.cumsum(histogram.counts)
    edges = histogram.edges
    low = edges[np.searchsorted(below, tail, side="right")]
    high = edges[np.searchsorted(below, histogram.total - tail, side="left") + 1]
    return max(histogram.low, float(low)), min(histogram.high, float(high))


def minmax_range(histogram: Histogram) -> Range:
    """Everything that was seen; one outlier makes the steps of all other values coarse."""
    return histogram.low, histogram.high


def mse_range(histogram: Histogram) -> Range:
    """The range whose rounding and clipping have the smallest mean square."""
    return min(_candidates(histogram), key=lambda found: squared_error(histogram, found))


def entropy_range(histogram: Histogram) -> Range:
    """The range whose 256 steps tell most of the distribution: least relative entropy."""
    return min(_candidates(histogram), key=lambda found: relative_entropy(histogram, found))


METHODS: Mapping[str, Callable[[Histogram], Range]] = {
    "minmax": minmax_range,
    "percentile_99.9": partial(percentile_range, percent=99.9),
    "percentile_99.99": partial(percentile_range, percent=99.99),
    "entropy": entropy_range,
    "mse": mse_range,
}
"""From the recipe's word to the function."""


def squared_error(histogram: Histogram, found: Range) -> float:
    """Mean square of what rounding to 256 steps and clipping change, in squared units of the activation."""
    scale, zero = (float(part) for part in affine(*found))
    centres = histogram.centres
    steps = np.clip(np.round(centres / scale) + zero, 0, LEVELS)
    return float(np.average((centres - (steps - zero) * scale) ** 2, weights=histogram.counts))


def relative_entropy(histogram: Histogram, found: Range) -> float:
    """KL divergence, in nats, of the values clipped to a range from what its 256 steps leave of them."""
    scale, zero = (float(part) for part in affine(*found))
    centres, counts = histogram.centres, histogram.counts.astype(np.float64)
    inside = (centres >= found[0]) & (centres <= found[1])
    if not inside.any():
        return float("inf")
    steps = np.clip(np.round(centres / scale) + zero, 0, LEVELS).astype(np.int64)
    clipped = _clipped(counts, inside)[inside]
    coarse = _spread(counts[inside], steps[inside])
    clipped, coarse = clipped / clipped.sum(), coarse / max(coarse.sum(), _SMALLEST)
    filled = clipped > 0
    return float(np.sum(clipped[filled] * np.log(clipped[filled] / np.maximum(coarse[filled], _SMALLEST))))


def _clipped(counts: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The counts with what lies outside moved to the outermost bins inside."""
    first, last = np.flatnonzero(inside)[[0, -1]]
    moved = counts.copy()
    moved[first] += counts[:first].sum()
    moved[last] += counts[last + 1 :].sum()
    return moved


def _spread(counts: NDArray[np.float64], steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each step's count, shared evenly by those of its bins that hold something."""
    filled = (counts > 0).astype(np.float64)
    sums = np.bincount(steps, weights=counts, minlength=LEVELS + 1)
    bins = np.bincount(steps, weights=filled, minlength=LEVELS + 1)
    return filled * (sums / np.maximum(bins, 1))[steps]


def _candidates(histogram: Histogram) -> Iterator[Range]:
    """Ranges from all that was seen down to a small part of it, each 5% smaller than the one before."""
    largest = max(abs(histogram.low), abs(histogram.high))
    for share in np.geomspace(1.0, _SMALLEST_SHARE, NUM_CANDIDATES):
        yield max(histogram.low, -largest * share), min(histogram.high, largest * share)
