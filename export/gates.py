"""Gates: a limit, a measured value with its interval, and a verdict that a lucky sample cannot flatter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import msgspec

Verdict = Literal["passed", "failed", "inconclusive"]


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One gate of one artifact; smaller measured values are better.

    Attributes:
        name: of the limit in the recipe, for example quantisation_metric_drop.
        subject: what was measured: an artifact's precision and the task, for example `int8 intent`.
        limit: largest value that is good enough.
        measured: the value.
        low: lower end of its 95% interval; equal to `measured` where nothing was sampled.
        high: upper end.
        verdict: passed: the whole interval is within the limit; failed: all of it is beyond; inconclusive:
            the sample cannot decide.
    """

    name: str
    subject: str
    limit: float
    measured: float
    low: float
    high: float
    verdict: Verdict


def decide_gate(
    name: str,
    subject: str,
    measured: float,
    *,
    limit: float,
    low: float | None = None,
    high: float | None = None,
) -> Gate:
    """Hold a measured value with its interval against a limit; without an interval the value decides alone.

    Raises:
        ValueError: a value is NaN; what could not be measured can neither pass nor fail.
    """
    low = measured if low is None else low
    high = measured if high is None else high
    if any(math.isnan(value) for value in (measured, low, high)):
        raise ValueError(f"gate {name} of {subject} needs numbers, got {measured} in [{low}, {high}]")
    return Gate(
        name=name,
        subject=subject,
        limit=limit,
        measured=measured,
        low=low,
        high=high,
        verdict=_verdict(low, high, limit),
    )


def has_passed(gates: Iterable[Gate], *, allow_inconclusive: bool = False) -> bool:
    """Whether every gate passed; inconclusive ones count as failed unless allowed."""
    good = ("passed", "inconclusive") if allow_inconclusive else ("passed",)
    return all(gate.verdict in good for gate in gates)


def _verdict(low: float, high: float, limit: float) -> Verdict:
    if high <= limit:
        return "passed"
    return "failed" if low > limit else "inconclusive"
