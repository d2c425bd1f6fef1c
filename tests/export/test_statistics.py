"""Intervals: against hand values, a second implementation and simulated coverage."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from export.statistics import bootstrap_interval, median_interval, paired_difference, paired_ratio
from tests.export.conftest import accuracy


def test_the_interval_agrees_with_scipys() -> None:
    """A percentile taken at the wrong tail gives an interval that looks like one."""
    values = np.random.default_rng(1).normal(size=80)

    value, low, high = bootstrap_interval(lambda rows: float(np.mean(rows)), values, samples=4000)

    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert value == pytest.approx(values.mean())
    assert low == pytest.approx(expected.low, abs=0.02)
    assert high == pytest.approx(expected.high, abs=0.02)


def test_ninety_five_of_a_hundred_intervals_hold_the_truth() -> None:
    """Coverage is what an interval is for; one of a wrong width passes every other test."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        labels = generator.random(200) < 0.7
        _, low, high = bootstrap_interval(accuracy, labels, np.ones(200, dtype=bool), samples=300)
        covered += low <= 0.7 <= high

    assert 0.90 <= covered / 300 <= 0.98


def test_a_paired_difference_uses_the_same_rows_for_both() -> None:
    """Unpaired resampling would be so wide that no difference is ever found."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, size=400)
    first = np.where(generator.random(400) < 0.7, labels, 1 - labels)
    second = first.copy()
    wrong = np.flatnonzero(first != labels)[:12]
    second[wrong] = labels[wrong]

    difference, low, high = paired_difference(accuracy, labels, first, second)

    assert difference == pytest.approx(0.03)
    assert 0.01 < low < 0.03 < high < 0.05


def test_equal_predictions_differ_by_exactly_nothing() -> None:
    """A gate must pass when nothing changed, whatever the sample."""
    labels = np.arange(30) % 3

    assert paired_difference(accuracy, labels, labels * 0, labels * 0) == (0.0, 0.0, 0.0)


def test_a_resample_without_a_defined_metric_is_left_out() -> None:
    """One undefined resample in a thousand must not erase the interval."""
    labels = np.array([1.0, 2.0, 3.0, 4.0])

    def correlation(first: np.ndarray, second: np.ndarray) -> float:
        if np.ptp(first) == 0:
            return float("nan")
        return float(np.corrcoef(first, second)[0, 1])

    value, low, high = bootstrap_interval(correlation, labels, labels * 2)

    assert (value, low, high) == pytest.approx((1.0, 1.0, 1.0))


def test_a_metric_that_is_never_defined_has_no_interval() -> None:
    """Zeros in its place would read as a measurement."""
    _, low, high = bootstrap_interval(lambda rows: float("nan"), np.ones(3))

    assert np.isnan([low, high]).all()


def test_the_ratio_is_how_many_times_faster_the_second_is() -> None:
    """Turned round, the slower variant would be praised."""
    ratio, low, high = paired_ratio(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))

    assert (ratio, low, high) == (2.0, 2.0, 2.0)


def test_pairs_cancel_what_slows_both() -> None:
    """A slow spell of the machine must not hide, or make, a difference of ten per cent."""
    generator = np.random.default_rng(3)
    weather = generator.uniform(1, 5, size=40)
    first, second = weather * 1.1, weather * generator.normal(1, 0.01, size=40)

    ratio, low, high = paired_ratio(first, second)

    assert 1.08 < low <= ratio <= high < 1.12


@settings(max_examples=50)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_an_interval_of_a_mean_lies_within_the_data(values: list[float]) -> None:
    """Holds for any data; ends outside of it mean a broken resampling."""
    array = np.array(values)

    value, low, high = bootstrap_interval(lambda rows: float(np.mean(rows)), array, samples=50)

    slack = 1e-9
    assert array.min() - slack <= low <= high <= array.max() + slack
    assert array.min() - slack <= value <= array.max() + slack


def test_arrays_of_different_lengths_are_refused() -> None:
    """Numpy would index beyond the shorter one, or pair the wrong rows."""
    with pytest.raises(ValueError, match="common"):
        bootstrap_interval(accuracy, np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="common"):
        paired_ratio(np.ones(0), np.ones(0))


def test_a_thousand_resamples_of_accuracy_are_quick() -> None:
    """A report has dozens of intervals; seconds for each would be minutes for all."""
    labels = np.arange(768) % 12
    start = time.process_time()

    bootstrap_interval(accuracy, labels, labels)

    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(("number", "place"), [(5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (20, 5), (40, 13)])
def test_the_medians_interval_lies_between_the_tabulated_order_statistics(number: int, place: int) -> None:
    """One place further in, and an A-against-A run finds a difference in every tenth case.

    The places are those of the sign test's tables: the largest k with P(Bin(n, 1/2) < k) <= 2.5%, less one.
    """
    values = np.random.default_rng(0).permutation(number).astype(float)

    median, low, high, confidence = median_interval(values)

    assert (low, high) == (place, number - 1 - place)
    assert median == np.median(values)
    assert confidence == pytest.approx(1 - 2 * stats.binom.cdf(place, number, 0.5))
    assert (confidence >= 0.95) == (number >= 6)


@pytest.mark.parametrize(("number", "confidence"), [(1, 0.0), (2, 0.5), (3, 0.75), (4, 0.875), (5, 0.9375)])
def test_few_values_give_their_range_and_say_how_little_it_is_worth(number: int, confidence: float) -> None:
    """Three rounds that agree by luck would read as certainty."""
    assert median_interval(np.arange(number)) == ((number - 1) / 2, 0.0, number - 1.0, confidence)


def test_the_medians_interval_holds_for_skewed_noise() -> None:
    """Timings have a long tail; an interval made for the normal distribution misses too often, or is endless."""
    random = np.random.default_rng(1)
    samples = random.exponential(size=(4000, 10)) ** 3
    true = np.log(2) ** 3

    covered = [low <= true <= high for _, low, high, _ in map(median_interval, samples)]

    assert np.mean(covered) == pytest.approx(1 - 2 * stats.binom.cdf(1, 10, 0.5), abs=0.01)
