"""Did the machine become slower or faster while it was measured?

The variants take turns, so a drift of the machine moves all of them. Their logarithms are averaged per round, so that
each counts the same however long it takes, and a trend over the rounds is sought with the test of Mann and Kendall,
each batch size a stratum of its own (Hirsch, Slack and Smith 1982, Water Resources Research 18, 107). The p-value is
exact: Kendall's S of n rounds in random order is n(n - 1)/2 less twice the inversions, and their counts are products of
polynomials.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.benchmark.summary import Measurement

SIGNIFICANT = 0.05
NOTICEABLE = 0.02
MIN_ROUNDS = 5
"""With fewer, even rounds in perfect order are no rarer than one in twelve."""


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """A trend over the rounds.

    Attributes:
        change: of the calls' duration from the first round to the last, as a share; 0.1 for a tenth slower.
        p_value: of so strong a trend by chance, two-sided.
        rounds: of each batch size.
    """

    change: float
    p_value: float
    rounds: int

    @property
    def is_seen(self) -> bool:
        """Whether it is neither chance nor too small to matter."""
        return self.p_value <= SIGNIFICANT and abs(self.change) >= NOTICEABLE


def find_drift(measurements: Sequence[Measurement]) -> Drift | None:
    """The trend that all measurements share; None with fewer rounds than could show one."""
    strata = [_shared(measurements, size) for size in dict.fromkeys(m.batch_size for m in measurements)]
    rounds = min((len(stratum) for stratum in strata), default=0)
    if rounds < MIN_ROUNDS:
        return None
    return Drift(
        change=float(np.exp(np.mean([_slope(s) * (len(s) - 1) for s in strata])) - 1),
        p_value=_p_value(sum(_score(s) for s in strata), [len(s) for s in strata]),
        rounds=rounds,
    )


def _shared(measurements: Sequence[Measurement], batch_size: int) -> NDArray[np.float64]:
    """Mean over the variants of the logarithms of their rounds, [rounds]."""
    logs = np.log([m.round_seconds for m in measurements if m.batch_size == batch_size])
    shared: NDArray[np.float64] = logs.mean(axis=0).round(12)
    return shared


def _score(values: NDArray[np.float64]) -> int:
    """Kendall's S: pairs that grow less pairs that shrink."""
    return int(sum(np.sign(later - earlier) for earlier, later in combinations(values, 2)))


def _slope(values: NDArray[np.float64]) -> float:
    """Median change per round over all pairs (Theil 1950, Sen 1968)."""
    pairs = combinations(enumerate(values), 2)
    return float(np.median([(second - first) / (later - earlier) for (earlier, first), (later, second) in pairs]))


def _p_value(score: int, lengths: Sequence[int]) -> float:
    """Share of all orders of the rounds within their strata whose |S| is at least this one."""
    shares = np.ones(1)
    for length in lengths:
        for place in range(1, length + 1):
            shares = np.convolve(shares, np.full(place, 1 / place))
    scores = len(shares) - 1 - 2 * np.arange(len(shares))
    return float(min(1.0, shares[np.abs(scores) >= abs(score)].sum()))
