"""Gates: the whole interval decides."""

from __future__ import annotations

import math

import pytest

from export.gates import decide_gate, has_passed


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


def test_what_could_not_be_measured_is_an_error() -> None:
    """NaN compares false with any limit and would slip through one of the branches."""
    with pytest.raises(ValueError, match="needs numbers"):
        decide_gate("drop", "int8", math.nan, limit=0.01)


def test_inconclusive_counts_as_failed_unless_allowed() -> None:
    """A sample too small to decide must not certify an artifact."""
    undecided = decide_gate("drop", "int8", 0.0, limit=0.01, low=-1.0, high=1.0)
    failed = decide_gate("drop", "int8", 1.0, limit=0.01)

    assert not has_passed([undecided])
    assert has_passed([undecided], allow_inconclusive=True)
    assert not has_passed([undecided, failed], allow_inconclusive=True)
    assert has_passed([])
