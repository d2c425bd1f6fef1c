"""Intervals by the percentile bootstrap: of a metric, of a paired difference, of a paired ratio of durations.

Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 13 and 16. The resampling is
ours and not scipy's because a metric may be undefined on a resample (one class only, a constant column):
scipy then gives up the whole interval, here that resample alone is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Array = NDArray[Any]
Metric = Callable[..., float]
CONFIDENCE = 0.95


def bootstrap_interval(
    metric: Metric, *arrays: Array, samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """A metric with its 95% interval; the rows of all arrays are resampled together.

    Args:
        metric: takes the arrays (usually labels, predictions) and returns a number; NaN where undefined.
        arrays: each [rows, ...], the same number of rows, at least one.
        samples: number of resamples; the metric is called that often plus once.
        seed: of the resampling; the same seed draws the same rows for any metric.

    Returns:
        (value on all rows, low, high). A value that no resample can compute has NaN ends.
    """
    num_rows = _common_rows(arrays)
    value = float(metric(*arrays))
    resamples = np.random.default_rng(seed).integers(0, num_rows, size=(samples, num_rows))
    drawn = np.array([metric(*(array[rows] for array in arrays)) for rows in resamples], dtype=np.float64)
    return value, *_percentile_ends(drawn)


def paired_difference(
    metric: Metric,
    labels: Array,
    predictions_a: Array,
    predictions_b: Array,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """metric(b) - metric(a) on the same rows with its 95% interval.

    Both are scored on the same resample, so what makes a row hard for both cancels out.

    Args:
        metric: takes (labels, predictions).
        labels: [rows, ...].
        predictions_a: [rows, ...], the baseline's.
        predictions_b: [rows, ...].
        samples: number of resamples.
        seed: of the resampling.

    Returns:
        (difference, low, high); positive where b is better on a metric that grows with quality.
    """

    def difference(labels: Array, first: Array, second: Array) -> float:
        return float(metric(labels, second)) - float(metric(labels, first))

    return bootstrap_interval(difference, labels, predictions_a, predictions_b, samples=samples, seed=seed)


def paired_ratio(
    durations_a: Array, durations_b: Array, *, samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """How many times faster b is than a: the median over rounds of a / b, with its 95% interval.

    Each round ran both, one right after the other, so a slow spell of the machine hits both sides of
    its ratio. The median keeps one disturbed round from deciding.

    Args:
        durations_a: [rounds] seconds, > 0.
        durations_b: [rounds] seconds, > 0, of the same rounds.
        samples: number of resamples of the rounds.
        seed: of the resampling.

    Returns:
        (ratio, low, high); above 1 where b is faster.
    """
    num_rounds = _common_rows((durations_a, durations_b))
    ratios = np.asarray(durations_a, dtype=np.float64) / np.asarray(durations_b, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(0, num_rounds, size=(samples, num_rounds))
    return float(np.median(ratios)), *_percentile_ends(np.median(ratios[rows], axis=1))


def median_interval(values: Array) -> tuple[float, float, float, float]:
    """The median with an interval between two of the values, exact for independent ones of any distribution.

    Between the k-th smallest and the k-th largest of n values the true median lies unless fewer than k values are
    on one side of it, which is a toss of n coins. The narrowest such interval of at least 95% is taken; fewer than
    6 values have none, and give their range with the lower confidence that it has.

    Source: David and Nagaraja (2003), Order Statistics, section 7.1.

    Args:
        values: [n], at least one.

    Returns:
        (median, low, high, confidence).
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    number = _common_rows((ordered,))
    missed = 2 * np.cumsum([math.comb(number, count) for count in range((number + 1) // 2)]) / 2.0**number
    place = max(int(np.searchsorted(missed, 1 - CONFIDENCE, side="right")) - 1, 0)
    return (
        float(np.median(ordered)),
        float(ordered[place]),
        float(ordered[number - 1 - place]),
        1 - float(missed[place]),
    )


def share_interval(count: int, total: int) -> tuple[float, float, float]:
    """A share of independent rows with its 95% interval, which is honest at 0 and at 1 as well.

    Source: Wilson (1927), J. American Statistical Association 22.

    Args:
        count: rows that are so, 0 to total.
        total: all rows, at least one.

    Returns:
        (share, low, high), all in [0, 1].
    """
    squared = float(norm.ppf((1 + CONFIDENCE) / 2)) ** 2
    share = count / total
    centre = (count + squared / 2) / (total + squared)
    margin = math.sqrt(squared * (count * (1 - share) + squared / 4)) / (total + squared)
    return share, max(0.0, min(share, centre - margin)), min(1.0, max(share, centre + margin))


def _common_rows(arrays: tuple[Array, ...]) -> int:
    """The number of rows that all arrays share; ValueError if they differ or there is none."""
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"paired arrays need one common, positive number of rows, got {sorted(lengths)}")
    return lengths.pop()


def _percentile_ends(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """The central 95% of the defined resampled values; (nan, nan) when none is defined."""
    defined = drawn[~np.isnan(drawn)]
    if not defined.size:
        return float("nan"), float("nan")
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)
