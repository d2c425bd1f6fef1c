"""Histograms in bounded memory: merged in any order they are the histogram of everything."""

from __future__ import annotations

import functools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from export.quantise.ranges import NUM_BINS, Histogram, histogram_of, merge

numbers = st.floats(-1e6, 1e6, width=32)


def same(one: Histogram, other: Histogram) -> bool:
    return (one.exponent, one.first, one.low, one.high) == (other.exponent, other.first, other.low, other.high) and (
        np.array_equal(one.counts, other.counts)
    )


def test_counts_by_hand() -> None:
    """Catches bins that are shifted by one, and a largest value that falls out of the last bin."""
    found = histogram_of(np.array([0.0, 0.5, 16383.0]))
    assert (found.exponent, found.first, len(found.counts)) == (0, 0, 16384)
    assert (found.counts[0], found.counts[16383], found.total) == (2, 1, 3)
    assert (found.edges[0], found.edges[-1]) == (0.0, 16384.0)
    doubled = histogram_of(np.array([0.0, 0.5, 16384.0]))
    assert (doubled.exponent, len(doubled.counts)) == (1, 8193)


@given(values=arrays(np.float32, st.integers(3, 60), elements=numbers), cut=st.integers(1, 2))
def test_merged_histograms_equal_the_one_pass_histogram(values: NDArray[np.float32], cut: int) -> None:
    """Catches a range that depends on the order of the texts, and counts that are lost when bins double."""
    whole = histogram_of(values)
    parts = [values[:cut], values[cut:-1], values[-1:]]
    for order in (parts, parts[::-1]):
        streamed = functools.reduce(merge, [histogram_of(part) for part in order if len(part)])
        assert same(streamed, whole)
    assert whole.total == len(values)
    assert len(whole.counts) <= NUM_BINS


@given(values=arrays(np.float32, st.integers(2, 40), elements=numbers))
def test_every_value_lies_in_its_bin(values: NDArray[np.float32]) -> None:
    """Catches rounding by which a value is counted in the neighbouring bin."""
    found = histogram_of(values)
    by_hand, _ = np.histogram(values.astype(np.float64), found.edges)
    if float(values.max()) == found.edges[-1]:  # numpy's last bin is closed, ours has one more
        return
    np.testing.assert_array_equal(found.counts, by_hand)


def test_memory_does_not_grow_with_the_values() -> None:
    """Catches a calibration that keeps every activation: 256 texts of a large model are gigabytes."""
    generator = np.random.default_rng(0)

    def peak(batches: int) -> int:
        tracemalloc.start()
        found = histogram_of(generator.normal(size=1000))
        for _ in range(batches):
            found = merge(found, histogram_of(generator.normal(size=1000)))
        kept = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.counts.nbytes <= NUM_BINS * 8
        return kept

    peak(2)
    assert peak(400) < 1.5 * peak(20)


def test_shares_outside_are_counted_on_both_sides() -> None:
    """Catches clipping that is reported for one end only."""
    found = histogram_of(np.array([-9.0, -1.0, 0.0, 1.0, 9.0, 9.5, 2.0, 3.0]))
    assert found.share_outside(-5.0, 5.0) == pytest.approx(3 / 8)
    assert found.share_outside(-10.0, 10.0) == 0.0


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_what_is_no_number_is_refused(values: list[float]) -> None:
    """Catches a NaN that becomes the range of a layer."""
    with pytest.raises(ValueError, match="finite"):
        histogram_of(np.array(values))


def test_constants_and_tiny_values_have_a_histogram() -> None:
    """Catches an endless search for a bin width where all values are equal."""
    for values in ([0.0, 0.0], [3.5], [1e-30, 2e-30], [-1e30, 1e30]):
        assert histogram_of(np.array(values)).total == len(values)
