"""The trend test over the rounds, held against scipy's and against its own promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from export.benchmark import Drift, Measurement, find_drift


def _measured(*rounds: float, batch_size: int = 1, factor: float = 1.0) -> Measurement:
    return Measurement(
        variant="v", runtime="torch", device="cpu", precision="fp32", threads=1, batch_size=batch_size, p50_ms=1.0,
        p95_ms=None, p99_ms=None, samples=1, texts_per_second=1.0, round_seconds=tuple(r * factor for r in rounds),
    )  # fmt: skip


def _drift(*measured: Measurement) -> Drift:
    found = find_drift(measured)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rounds", [5, 8, 12])
def test_the_p_value_is_kendalls_exact_one(rounds: int, seed: int) -> None:
    """A wrong count of the orders makes drift out of chance, or hides it."""
    values = np.random.default_rng(seed).uniform(1, 2, size=rounds)

    expected = stats.kendalltau(np.arange(rounds), values, method="exact").pvalue

    assert _drift(_measured(*values)).p_value == pytest.approx(expected)


def test_a_steady_rise_is_seen_with_its_size() -> None:
    """A machine that throttles after a minute makes every later figure worse."""
    drift = _drift(_measured(*(1.02**place for place in range(6))))

    assert drift.is_seen
    assert drift.change == pytest.approx(1.02**5 - 1)
    assert drift.p_value == pytest.approx(2 / 720)


def test_a_fall_is_seen_too() -> None:
    """A machine that was busy when the benchmark began."""
    assert _drift(_measured(1.5, 1.4, 1.3, 1.2, 1.1)).change == pytest.approx(1.1 / 1.5 - 1, abs=0.005)


def test_a_perfect_but_tiny_trend_is_not_worth_a_word() -> None:
    """A clock rate that creeps by a thousandth changes nobody's decision."""
    drift = _drift(_measured(*(1.001**place for place in range(10))))

    assert drift.p_value < 0.001
    assert not drift.is_seen


def test_noise_is_not_called_drift() -> None:
    """One bad round in the middle is no trend."""
    assert not _drift(_measured(1.0, 1.01, 1.5, 0.99, 1.0, 1.02)).is_seen


def test_variants_that_scatter_share_one_drift() -> None:
    """Each variant alone is too noisy; together they show the machine."""
    random = np.random.default_rng(3)
    trend = 1.01 ** np.arange(10)
    measured = [_measured(*(trend * random.uniform(0.96, 1.04, 10)), factor=10.0**scale) for scale in range(12)]

    assert _drift(*measured).is_seen
    assert _drift(*measured).change == pytest.approx(1.01**9 - 1, abs=0.03)


def test_batch_sizes_are_strata_of_their_own() -> None:
    """They run one after the other and last differently; joined in one series that would be the strongest trend."""
    measured = [_measured(1.0, 1.1, 0.9, 1.05, 1.0, batch_size=1), _measured(8.0, 7.9, 8.2, 8.1, 7.8, batch_size=8)]

    assert not _drift(*measured).is_seen
    assert _drift(*measured).p_value > 0.5


def test_two_strata_add_up_to_what_none_shows_alone() -> None:
    """Five rounds of each batch size: together they are ten looks."""
    rising = [_measured(1.0, 1.1, 1.05, 1.2, 1.3, batch_size=size) for size in (1, 8)]

    assert _drift(rising[0]).p_value > 0.05 > _drift(*rising).p_value


def test_equal_rounds_have_no_trend() -> None:
    """A fake clock's rounds are all alike; dividing by their spread would fail."""
    drift = _drift(_measured(1.0, 1.0, 1.0, 1.0, 1.0))

    assert (drift.change, drift.p_value) == pytest.approx((0.0, 1.0))


def test_too_few_rounds_show_nothing() -> None:
    """Of four rounds one order in twelve is perfect."""
    assert find_drift([_measured(1.0, 2.0, 3.0, 4.0)]) is None
    assert find_drift([]) is None
