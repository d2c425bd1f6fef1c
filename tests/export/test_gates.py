"""Gates: the whole interval decides."""

from __future__ import annotations

import math

import pytest

from export.gates import Gate, decide_gate, describe_gate, has_passed, unmeasured_gate


@pytest.mark.parametrize(
    ("measured", "low", "high", "verdict"),
    [
        (0.0, -0.005, 0.005, "passed"),
        (0.0, -0.005, 0.01, "passed"),
        (0.0, -0.02, 0.02, "inconclusive"),
        (0.015, 0.005, 0.03, "inconclusive"),
        (0.01, 0.01, 0.011, "inconclusive"),
        (0.03, 0.011, 0.05, "failed"),
        (-0.5, -0.6, -0.4, "passed"),
    ],
)
def test_the_interval_gives_the_verdict(measured: float, low: float, high: float, verdict: str) -> None:
    """A value within the limit on a small sample would pass by luck."""
    assert decide_gate("drop", "int8", measured, limit=0.01, low=low, high=high).verdict == verdict


@pytest.mark.parametrize(("measured", "verdict"), [(1e-4, "passed"), (1.01e-4, "failed")])
def test_without_an_interval_the_value_decides(measured: float, verdict: str) -> None:
    """A largest difference is no sample: there is nothing to be inconclusive about."""
    assert decide_gate("difference", "fp32", measured, limit=1e-4).verdict == verdict


@pytest.mark.parametrize("measured", [None, math.nan, math.inf, -math.inf])
def test_a_gate_without_a_value_fails(measured: float | None) -> None:
    """NaN compares false with any limit, and minus infinity lies within every one."""
    gate = decide_gate("drop", "int8", measured, limit=0.01)

    assert (gate.verdict, gate.measured, gate.reason) == ("failed", None, "it was not measured")
    assert not has_passed([gate], allow_inconclusive=True)


@pytest.mark.parametrize(("reason", "told"), [("it cannot run", "it cannot run"), (None, "it was not measured")])
def test_why_there_is_no_value_is_told(reason: str | None, told: str) -> None:
    """A failed gate without a reason leaves its reader where they were."""
    gate = unmeasured_gate("drop", "int8", limit=0.01, reason=reason)

    assert (gate.verdict, gate.reason) == ("failed", told)
    assert describe_gate(gate) == f"drop of int8: failed, no value: {told}, limit 0.01"


@pytest.mark.parametrize("ends", [(math.nan, 0.0), (0.0, math.nan), (math.nan, math.nan), (-math.inf, 0.0)])
def test_a_gate_with_half_an_interval_fails(ends: tuple[float, float]) -> None:
    """Inconclusive can be allowed; an interval that nobody could compute must not hide behind it."""
    gate = decide_gate("drop", "int8", 0.0, limit=0.01, low=ends[0], high=ends[1])

    assert gate.verdict == "failed"
    assert gate.reason == "its interval is undefined on this sample"


@pytest.mark.parametrize("limit", [math.nan, math.inf])
def test_a_limit_that_everything_passes_is_no_limit(limit: float) -> None:
    """Within infinity lies even the largest number that stands for a missing logit."""
    with pytest.raises(ValueError, match="give a finite number"):
        decide_gate("drop", "int8", 0.0, limit=limit)


def test_swapped_ends_are_an_error() -> None:
    """The lower end taken for the upper one passes what should not."""
    with pytest.raises(ValueError, match="its ends are swapped"):
        decide_gate("drop", "int8", 0.005, limit=0.01, low=0.5, high=-0.5)


def test_a_value_beyond_the_limit_does_not_pass_by_its_interval() -> None:
    """A bootstrap interval may leave its own value out."""
    assert decide_gate("drop", "int8", 0.02, limit=0.01, low=0.0, high=0.005).verdict == "inconclusive"


def test_a_verdict_that_its_numbers_deny_cannot_be_made() -> None:
    """What is read from a file must follow the same rule as what is decided here."""
    with pytest.raises(ValueError, match="says passed, but its numbers say failed"):
        Gate(name="drop", subject="int8", limit=0.01, measured=1.0, low=1.0, high=1.0, verdict="passed")


def test_inconclusive_counts_as_failed_unless_allowed() -> None:
    """A sample too small to decide must not certify an artifact."""
    undecided = decide_gate("drop", "int8", 0.0, limit=0.01, low=-1.0, high=1.0)
    failed = decide_gate("drop", "int8", 1.0, limit=0.01)

    assert not has_passed([undecided])
    assert has_passed([undecided], allow_inconclusive=True)
    assert not has_passed([undecided, failed], allow_inconclusive=True)


def test_no_gate_and_a_missing_gate_have_not_passed() -> None:
    """All of nothing is true: an artifact that nobody checked was once an artifact that passed."""
    passed = decide_gate("drop", "int8 intent", 0.0, limit=0.01)

    assert not has_passed([])
    assert has_passed([passed], required=[("drop", "int8 intent")])
    assert not has_passed([passed], required=[("drop", "int8 intent"), ("drop", "int8 tone")])
    assert not has_passed([passed], required=[("difference", "int8 intent")])


@pytest.mark.parametrize(
    ("measured", "ends", "line"),
    [
        (0.02, (0.015, 0.03), "drop of int8 on intent: failed, measured 0.02 [0.015, 0.03], limit 0.01"),
        (1e-6, (None, None), "drop of int8 on intent: passed, measured 1e-06, limit 0.01"),
        (None, (None, None), "drop of int8 on intent: failed, no value: it was not measured, limit 0.01"),
    ],
)
def test_a_gate_is_told_in_one_line(measured: float | None, ends: tuple[float | None, float | None], line: str) -> None:
    """The last thing a failed run prints: rung, task, value and limit."""
    assert describe_gate(decide_gate("drop", "int8 intent", measured, limit=0.01, low=ends[0], high=ends[1])) == line
