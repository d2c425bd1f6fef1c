"""Gates: a limit, a measured value with its interval, and a verdict that a lucky sample cannot flatter.

Gates fail closed: what was not measured, is no number or has no interval where it needs one has failed, and an
artifact without its gates has not passed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Literal

import msgspec

Verdict = Literal["passed", "failed", "inconclusive"]
NOT_MEASURED = "it was not measured"
UNDEFINED = "its interval is undefined on this sample"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The gates of the recipe that concern artifacts; what has a limit here cannot be switched off, only widened.

    Attributes:
        export_logit_difference: fp32 graphs against torch, per logit.
        batch_invariance: fp32 graph, a text alone against the same text in company, per logit.
        quantisation_metric_drop: other precisions against the fp32 student, absolute, paired.
        worst_slice_drop: right answers lost in the worst slice against the fp32 student; None: not asked.
        allow_inconclusive: whether a gate that the sample cannot decide lets the artifact pass.
    """

    export_logit_difference: float = 1e-4
    batch_invariance: float = 1e-5
    quantisation_metric_drop: float = 0.01
    worst_slice_drop: float | None = None
    allow_inconclusive: bool = False


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One gate of one rung of the ladder; smaller measured values are better.

    Attributes:
        name: of the limit in the recipe, for example quantisation_metric_drop.
        subject: what was measured: a rung (an artifact's precision) and the task, for example `int8 intent`.
        limit: largest value that is good enough.
        measured: the value; None where there is none.
        low: lower end of its 95% interval; equal to `measured` where nothing was sampled.
        high: upper end.
        verdict: passed: the whole interval is within the limit; failed: all of it is beyond, or there is no value;
            inconclusive: the sample cannot decide.
        reason: why there is no value, or what it counts; may be empty.
    """

    name: str
    subject: str
    limit: float
    measured: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    reason: str = ""

    def __post_init__(self) -> None:
        """ValueError for a verdict that does not follow from the numbers, and for numbers that allow none."""
        if not math.isfinite(self.limit):
            raise ValueError(f"gate {self.name} of {self.subject} has the limit {self.limit}; give a finite number")
        if self.verdict != (verdict := _verdict(self.measured, self.low, self.high, self.limit)):
            raise ValueError(f"gate {self.name} of {self.subject} says {self.verdict}, but its numbers say {verdict}")


def decide_gate(
    name: str,
    subject: str,
    measured: float | None,
    *,
    limit: float,
    low: float | None = None,
    high: float | None = None,
) -> Gate:
    """Hold a measured value with its interval against a limit; without an interval the value decides alone.

    Args:
        name: of the limit.
        subject: rung and task.
        measured: the value; None, NaN or infinite where there is none, which fails the gate.
        limit: largest good value.
        low: lower end of the interval; None for a value that was not sampled.
        high: upper end.

    Raises:
        ValueError: the limit is not finite, or the interval's ends are in the wrong order.
    """
    ends = (measured if low is None else low, measured if high is None else high)
    value, low, high = (_finite(number) for number in (measured, *ends))
    if low is not None and high is not None and low > high:
        raise ValueError(f"gate {name} of {subject} has the interval [{low}, {high}]; its ends are swapped")
    reason = NOT_MEASURED if value is None else UNDEFINED if None in (low, high) else ""
    verdict = _verdict(value, low, high, limit)
    return Gate(
        name=name,
        subject=subject,
        limit=limit,
        measured=value,
        low=low,
        high=high,
        verdict=verdict,
        reason=reason,
    )


def unmeasured_gate(name: str, subject: str, *, limit: float, reason: str | None) -> Gate:
    """A gate without a value, which fails; the reason is told wherever the gate is."""
    gate = decide_gate(name, subject, None, limit=limit)
    return msgspec.structs.replace(gate, reason=reason or NOT_MEASURED)


def has_passed(
    gates: Sequence[Gate], *, allow_inconclusive: bool = False, required: Collection[tuple[str, str]] = ()
) -> bool:
    """Whether there are gates and every one passed; inconclusive ones count as failed unless allowed.

    Args:
        gates: what was decided; none at all has not passed.
        allow_inconclusive: see `Limits`.
        required: (name, subject) of the gates that must be among them: a gate that nobody asked has not passed.
    """
    good = ("passed", "inconclusive") if allow_inconclusive else ("passed",)
    asked = {(gate.name, gate.subject) for gate in gates}
    return bool(gates) and set(required) <= asked and all(gate.verdict in good for gate in gates)


def describe_gate(gate: Gate) -> str:
    """One line: the gate, its rung and task, the verdict, the value and the limit."""
    rung, _, task = gate.subject.partition(" ")
    subject = f"{gate.name} of {rung} on {task}" if task else f"{gate.name} of {rung}"
    return f"{subject}: {gate.verdict}, {describe_value(gate)}, limit {gate.limit:.3g}"


def describe_value(gate: Gate) -> str:
    """What was measured, in words: the value with its interval, or why there is none."""
    if gate.measured is None or gate.low is None or gate.high is None:
        return f"no value: {gate.reason or NOT_MEASURED}"
    interval = f" [{gate.low:.3g}, {gate.high:.3g}]" if gate.low != gate.high else ""
    note = f" ({gate.reason})" if gate.reason else ""
    return f"measured {gate.measured:.3g}{interval}{note}"


def _verdict(measured: float | None, low: float | None, high: float | None, limit: float) -> Verdict:
    if any(value is None or not math.isfinite(value) for value in (measured, low, high)):
        return "failed"
    values = [value for value in (measured, low, high) if value is not None]
    if max(values) <= limit:
        return "passed"
    return "failed" if min(values) > limit else "inconclusive"


def _finite(value: float | None) -> float | None:
    """The number, or None for what is no number."""
    return None if value is None or not math.isfinite(value) else float(value)
