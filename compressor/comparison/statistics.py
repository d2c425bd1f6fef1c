"""Paired differences between two methods when seeds and test examples are both samples.

The model. Seed s and test example i give the difference (method minus baseline)

    d[s, i] = mu + seed[s] + example[i] + rest[s, i]

with independent terms of variance v_seed, v_example, v_rest; seeds are data orders (and labelled subsets),
drawn anew for every s and shared by both methods; all seeds answer the same n examples. The mean over S seeds
and n examples then has the variance

    V = v_seed / S + v_example / n + v_rest / (S * n).

Three quantities can be computed from one table of answers, and what they estimate is

    a = variance over seeds of D[s] / S                    ->  v_seed / S + v_rest / (S * n)
    b = bootstrap variance of mean(D), all seeds resampled
        on the same examples                               ->  v_example / n + v_rest / (S * n)
    c = mean over seeds of D[s]'s own bootstrap variance   ->  v_example / n + v_rest / n

(in a the example effects cancel, being the same for every seed; in b and c the seeds are held fixed). So a + b
counts v_rest / (S * n) twice, and c - b = v_rest / n * (1 - 1 / S), that is (c - b) / (S - 1) = v_rest / (S * n):

    V = a + b - max(0, c - b) / (S - 1),   and never below a or b, each of which is a lower bound of V.

The interval is mean(D) +- t * sqrt(V) with the t distribution's S - 1 degrees of freedom, those of a. They are
exact when seeds dominate and too few when examples do (b alone has n - 1), so the interval errs on the wide
side; degrees of freedom estimated from a and b (Satterthwaite) would be narrower, but with three to five
seeds a too small a would then both shrink V and raise the degrees of freedom. A percentile bootstrap over five
seeds resamples five numbers: its spread is sqrt(4 / 5) of the right one and it knows no t, so it is too narrow.

Sources: Owen (2007), The pigeonhole bootstrap, arXiv:0712.1111, for the crossed model; Holm (1979), A simple
sequentially rejective multiple test procedure. The combination is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from export.statistics import Metric

LEVEL = 0.05
POWER = 0.8
RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """One method minus another on the same seeds and examples.

    Attributes:
        value: mean over the seeds, in units of the metric.
        low: of the 95% interval.
        high: of the 95% interval.
        standard_error: of `value`, over seeds and examples together; over examples alone for one seed.
        p_value: two-sided, uncorrected; None for one seed, which can support no claim.
        per_seed: the differences themselves, [seeds].
    """

    value: float
    low: float
    high: float
    standard_error: float
    p_value: float | None
    per_seed: tuple[float, ...]

    @property
    def num_seeds(self) -> int:
        """Seeds that both methods were trained with."""
        return len(self.per_seed)


def resampled_scores(
    metric: Metric, labels: np.ndarray, predictions: Sequence[np.ndarray], *, samples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """The metric of several trainings on common bootstrap resamples of the examples.

    Args:
        metric: takes (labels, predictions).
        labels: [rows, ...].
        predictions: per training [rows, ...].
        samples: number of resamples.
        seed: the same seed draws the same resamples, so that two methods' scores are paired.

    Returns:
        [samples, trainings]; NaN where a resample leaves the metric undefined.
    """
    num_rows = len(labels)
    generator = np.random.default_rng(seed)
    drawn = np.empty((samples, len(predictions)))
    for sample in range(samples):
        rows = generator.integers(0, num_rows, size=num_rows)
        picked = labels[rows]
        drawn[sample] = [metric(picked, answers[rows]) for answers in predictions]
    return drawn


def crossed_variance(per_seed: Floats, resampled: Floats) -> float:
    """Variance of the mean difference over seeds and examples together; see the module.

    Args:
        per_seed: differences on all examples, [seeds], at least two.
        resampled: differences on common resamples of the examples, [samples, seeds].
    """
    num_seeds = len(per_seed)
    over_seeds = float(np.var(per_seed, ddof=1)) / num_seeds
    over_examples = examples_variance(resampled)
    within_seed = float(np.nanvar(resampled, axis=0, ddof=1).mean())
    counted_twice = max(0.0, within_seed - over_examples) / (num_seeds - 1)
    return max(over_seeds + over_examples - counted_twice, over_seeds, over_examples)


def examples_variance(resampled: Floats) -> float:
    """Bootstrap variance of the mean over the seeds, the seeds held fixed; resampled [samples, seeds]."""
    return float(np.nanvar(resampled.mean(axis=1), ddof=1))


def paired_difference(per_seed: Floats, resampled: Floats) -> Difference:
    """The mean difference with its 95% interval and p-value.

    One seed gives an interval over the examples alone and no p-value: it says how another test sample would
    do with the same two models, and nothing of another training.

    Args:
        per_seed: [seeds], at least one.
        resampled: [samples, seeds], see `resampled_scores`.
    """
    value, num_seeds = float(per_seed.mean()), len(per_seed)
    if num_seeds == 1:
        error, p_value = math.sqrt(examples_variance(resampled)), None
        reach = float(stats.norm.ppf(1 - LEVEL / 2)) * error
    else:
        error = math.sqrt(crossed_variance(per_seed, resampled))
        p_value = _two_sided(value, error, num_seeds - 1)
        reach = float(stats.t.ppf(1 - LEVEL / 2, num_seeds - 1)) * error
    return Difference(value, value - reach, value + reach, error, p_value, tuple(float(d) for d in per_seed))


def _two_sided(value: float, error: float, freedom: int) -> float:
    if error == 0.0:  # the same answers to everything, or a difference that nothing varies
        return 1.0 if value == 0.0 else 0.0
    return float(2 * stats.t.sf(abs(value) / error, freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; each is at most 1.

    Rejecting where the adjusted value is at most 0.05 keeps the chance of any false claim in the family at 0.05,
    however the comparisons depend on one another.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def smallest_visible(standard_error: float, num_seeds: int, *, comparisons: int = 1) -> float | None:
    """The true difference that would have been found with a probability of 80%.

    Args:
        standard_error: of the difference.
        num_seeds: None comes back for one, which finds nothing, and for a standard error of 0, where nothing varied.
        comparisons: size of the Holm family: the difference has to be seen at 0.05 / comparisons, what Holm
            asks of the smallest p-value; 1 for the main comparison.
    """
    if num_seeds < 2 or standard_error == 0.0:
        return None
    return _visible_in_errors(num_seeds - 1, LEVEL / comparisons) * standard_error


@lru_cache(maxsize=256)
def _visible_in_errors(freedom: int, level: float) -> float:
    """Noncentrality at which a two-sided t test has 80% power.

    The usual t(1 - level / 2) + t(0.8) is its approximation: for 2 degrees of freedom that sum has 77% power, for
    1 degree 73%.
    """
    critical = float(stats.t.ppf(1 - level / 2, freedom))

    def lacking(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, freedom, noncentrality)) - POWER

    return float(optimize.brentq(lacking, 0.0, 3.0 * critical + 3.0))
