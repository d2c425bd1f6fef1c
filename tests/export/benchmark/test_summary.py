"""What may be said of timed calls: percentiles, ratios, verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from export.benchmark import Measurement, compare_variants, ratio_between
from export.benchmark.summary import Ratio, Timed, Verdict, summarise
from tests.export.benchmark.conftest import FakeMachine


def _summary(num_batches: int, rounds: int, seed: int = 0) -> Measurement:
    random = np.random.default_rng(seed)
    passes = [random.uniform(0.001, 0.002, size=(num_batches, 3)) for _ in range(rounds)]
    variant = FakeMachine().variant("v", 0.0, answer=lambda logits: None)
    return summarise(variant, 1, num_batches, Timed(passes, is_steady=True))


@pytest.mark.parametrize(
    ("num_batches", "rounds", "has_p95", "has_p99"),
    [
        (20, 4, False, False),
        (20, 5, True, False),
        (19, 6, False, False),
        (99, 11, True, False),
        (100, 9, True, False),
        (100, 10, True, True),
    ],
)
def test_percentiles_stand_only_where_samples_and_batches_support_them(
    num_batches: int, rounds: int, has_p95: bool, has_p99: bool
) -> None:
    """A p99 of forty samples is the maximum under another name, and so is one of the same few texts timed often."""
    measured = _summary(num_batches, rounds)

    assert (measured.p95_ms is not None, measured.p99_ms is not None) == (has_p95, has_p99)


def test_percentiles_are_those_of_the_model_alone() -> None:
    """With tokenising in it the p99 would be another thing than the p50 beside it."""
    calls = np.column_stack([np.full(1000, 5.0), np.arange(1, 1001) / 1000, np.full(1000, 9.0)])
    variant = FakeMachine().variant("v", 0.0)

    measured = summarise(variant, 2, 2000, Timed([calls], is_steady=True))

    assert measured.p50_ms == pytest.approx(500.5)
    assert measured.p95_ms == pytest.approx(950.05)
    assert measured.p99_ms == pytest.approx(990.01)
    assert measured.texts_per_second == pytest.approx(2000 / 500.5)
    assert measured.tokenise_ms == pytest.approx(5000)
    assert measured.round_seconds == pytest.approx((500.5,))


@pytest.mark.parametrize(
    ("low", "high", "confidence", "verdict"),
    [
        (1.011, 1.2, 0.96, "faster"),
        (1.009, 1.2, 0.96, "no difference"),
        (0.8, 0.989, 0.96, "slower"),
        (0.8, 0.992, 0.96, "no difference"),
        (0.9, 1.1, 0.96, "no difference"),
        (2.0, 2.1, 0.94, "too few rounds"),
    ],
)
def test_verdicts_follow_the_whole_interval(low: float, high: float, confidence: float, verdict: Verdict) -> None:
    """A point estimate always differs from one; that is no finding."""
    ratio = Ratio(value=(low + high) / 2, low=low, high=high, confidence=confidence, rounds=6)

    assert ratio.verdict == verdict


def test_ratios_are_paired_by_round() -> None:
    """Unpaired, a slow spell of the machine in one round would widen the interval until nothing is found."""
    weather = np.array([1.0, 3.0, 1.5, 9.0, 1.0, 2.0])
    slow, fast = (
        Measurement(
            variant=name, runtime="torch", device="cpu", precision="fp32", threads=1, batch_size=1, p50_ms=1.0,
            p95_ms=None, p99_ms=None, samples=6, texts_per_second=1.0, round_seconds=tuple(weather * factor),
        )
        for name, factor in (("slow", 1.25), ("fast", 1.0))
    )  # fmt: skip

    assert compare_variants(slow, fast) == pytest.approx((1.25, 1.25, 1.25))


def test_different_benchmarks_are_not_compared() -> None:
    """Rounds that did not run side by side share no weather; their ratio means nothing."""
    with pytest.raises(ValueError, match="one batch size"):
        ratio_between(_summary(20, 6), _summary(20, 5))
