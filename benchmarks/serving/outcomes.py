"""What became of the requests of one measurement, and what may be said about it.

Latency is counted from the time a request was due, not from the time it was sent. A server that stalls also
holds up those who came meanwhile; a client that waits for its answer before it sends the next request does
not see that (Tene's "coordinated omission"). Percentiles of latency are over the answers; whether a server
held its limit is judged over everything that was sent, so refusing or losing requests improves no figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

ANSWERED = 200
FAILED = 0
"""The connection broke before an answer was complete."""
GAVE_UP = -1
"""No answer within the client's patience; the connection was closed."""
REFUSED_STATUSES = (429, 503)
EXPIRED_STATUSES = (504, GAVE_UP)

TAIL_SAMPLES = 5
"""A percentile is named only if so many samples lie beyond it."""
LAG_EDGES_MS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0)
SHARE_WITHIN = 0.99
"""A rate is held when so many of all requests sent were answered within the limit: p99 <= limit."""


@dataclass(frozen=True)
class Outcomes:
    """One row per request, times in seconds on one clock, 0 at the start.

    Attributes:
        intended: when it was due.
        dispatched: when the generator took it up; later than intended is the generator's own lag.
        finished: when its last byte was there, or when it was given up.
        statuses: HTTP status, or one of FAILED and GAVE_UP.
        is_expected: whether the answer held the label that the model gives to the text alone.
    """

    intended: NDArray[np.float64]
    dispatched: NDArray[np.float64]
    finished: NDArray[np.float64]
    statuses: NDArray[np.int64]
    is_expected: NDArray[np.bool_]


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds; None where too few samples lie beyond. `maximum` is None without any sample."""

    samples: int
    p50: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    maximum: float | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement.

    Attributes:
        sent: requests that were due after the warm-up.
        ok: answered with 200.
        refused: 429 and 503.
        expired: 504, or no answer within the client's patience.
        failed: any other status and broken connections.
        other_label: answers with another label than the text gets alone (a batch may change dynamic int8).
        within: answered within the limit.
        share_within: `within` over `sent`.
        goodput: answers within the limit per second of the window.
        offered: requests sent per second of the window.
        latency: of the answers, from the intended time.
        lag: how late the generator itself was.
        lag_counts: requests by their lag; the edges are LAG_EDGES_MS, the last count is what lies above.
        is_valid: whether the generator kept its schedule; otherwise the figures say nothing about the server.
        holds: whether the limit was held by 99% of all that was sent.
    """

    sent: int
    ok: int
    refused: int
    expired: int
    failed: int
    other_label: int
    within: int
    share_within: float
    goodput: float
    offered: float
    latency: Percentiles
    lag: Percentiles
    lag_counts: list[int]
    is_valid: bool
    holds: bool


def summarise(
    outcomes: Outcomes, *, seconds: float, limit_seconds: float, warmup_seconds: float = 0.0, max_lag_ms: float = 5.0
) -> Summary:
    """Judge one measurement.

    Args:
        outcomes: of all requests that were due in the window.
        seconds: length of the window.
        limit_seconds: an answer that took longer is worth nothing.
        warmup_seconds: requests due earlier are sent, but not counted.
        max_lag_ms: the measurement is invalid when the p99 (the maximum where samples are few) of the generator's
            own lag is above.

    Raises:
        ValueError: nothing was due after the warm-up.
    """
    counted = outcomes.intended >= warmup_seconds
    sent = int(counted.sum())
    if not sent or seconds <= warmup_seconds:
        raise ValueError(f"nothing was due between {warmup_seconds} s and {seconds} s; measure longer")
    statuses = outcomes.statuses[counted]
    latencies = (outcomes.finished - outcomes.intended)[counted]
    lags = (outcomes.dispatched - outcomes.intended)[counted]
    is_ok = statuses == ANSWERED
    is_refused, is_expired = np.isin(statuses, REFUSED_STATUSES), np.isin(statuses, EXPIRED_STATUSES)
    within = int((is_ok & (latencies <= limit_seconds)).sum())
    lag = percentiles(lags)
    decisive_lag = lag.p99 if lag.p99 is not None else lag.maximum
    window = seconds - warmup_seconds
    return Summary(
        sent=sent,
        ok=int(is_ok.sum()),
        refused=int(is_refused.sum()),
        expired=int(is_expired.sum()),
        failed=int((~(is_ok | is_refused | is_expired)).sum()),
        other_label=int((is_ok & ~outcomes.is_expected[counted]).sum()),
        within=within,
        share_within=within / sent,
        goodput=within / window,
        offered=sent / window,
        latency=percentiles(latencies[is_ok]),
        lag=lag,
        lag_counts=lag_histogram(lags),
        is_valid=decisive_lag is not None and decisive_lag <= max_lag_ms,
        holds=within >= SHARE_WITHIN * sent,
    )


def percentiles(seconds: NDArray[np.float64]) -> Percentiles:
    """Percentiles of durations, in milliseconds; the nearest rank above, so each is a duration that occurred."""
    ordered = np.sort(seconds) * 1e3
    maximum = float(ordered[-1]) if len(ordered) else None
    p50, p90, p99, p999 = (_percentile(ordered, share) for share in (0.5, 0.9, 0.99, 0.999))
    return Percentiles(len(ordered), p50, p90, p99, p999, maximum)


def lag_histogram(lags: NDArray[np.float64]) -> list[int]:
    """How many requests were sent later than intended by at most each of LAG_EDGES_MS, and by more than the last."""
    edges = np.array([-np.inf, *LAG_EDGES_MS, np.inf])
    bins = np.searchsorted(edges, lags * 1e3, side="left") - 1
    return [int(count) for count in np.bincount(bins, minlength=len(edges) - 1)]


def median(values: Sequence[float]) -> float:
    """The median as a float; NaN of nothing."""
    return float(np.median(values)) if len(values) else float("nan")


def _percentile(ordered: NDArray[np.float64], share: float) -> float | None:
    if round(len(ordered) * (1 - share), 6) < TAIL_SAMPLES:
        return None
    return float(ordered[int(np.ceil(share * len(ordered))) - 1])
