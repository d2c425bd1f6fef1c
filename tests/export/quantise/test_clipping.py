"""Ranges from histograms: by hand, by definition, and against one another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.quantise.clipping import METHODS, mse_range, percentile_range, relative_entropy, squared_error
from export.quantise.integers import affine
from export.quantise.ranges import Histogram, histogram_of

GENERATOR = np.random.default_rng(0)
BELL = GENERATOR.normal(size=100_000)
OUTLIER = np.append(BELL, 200.0)


@pytest.fixture(scope="module")
def outlier() -> Histogram:
    """A bell with one value far outside."""
    return histogram_of(OUTLIER)


@pytest.fixture(scope="module")
def rare(outlier: Histogram) -> Histogram:
    """The same with a thousand bells: the outlier is one value of a hundred million."""
    counts = outlier.counts * 1000
    counts[-1] = 1
    return replace(outlier, counts=counts)


def test_the_names_are_those_of_the_recipe() -> None:
    """Catches a choice that the recipe offers and nobody has."""
    from compressor.recipe import ExportSettings

    offered = ExportSettings.model_json_schema()["properties"]["ranges"]["enum"]
    assert list(METHODS) == offered
    assert ExportSettings().ranges in METHODS


def test_percentiles_are_numpys(outlier: Histogram) -> None:
    """Catches tails that are cut twice as deep, or on one side only."""
    width = 2.0**outlier.exponent
    for percent in (99.0, 99.9):
        tail = (100 - percent) / 2
        low, high = np.percentile(OUTLIER, [tail, 100 - tail])
        assert percentile_range(outlier, percent) == pytest.approx((low, high), abs=1.01 * width)


def test_minmax_is_what_was_seen(outlier: Histogram) -> None:
    """Catches a range of bin edges, which lie a little outside."""
    assert METHODS["minmax"](outlier) == (OUTLIER.min(), 200.0)


@pytest.mark.parametrize("name", ["percentile_99.9", "percentile_99.99", "entropy", "mse"])
def test_all_others_let_an_outlier_go(rare: Histogram, name: str) -> None:
    """Catches a method that does nothing: 200 would leave three steps for everything else."""
    low, high = METHODS[name](rare)
    assert high < 20
    assert low < -2


def test_the_mse_range_has_the_least_error_of_all(rare: Histogram, outlier: Histogram) -> None:
    """Catches a search that stops at its first candidate, or takes the largest error."""
    for histogram in (rare, outlier):
        best = squared_error(histogram, mse_range(histogram))
        for method in METHODS.values():
            assert best <= squared_error(histogram, method(histogram)) * 1.05
    assert squared_error(rare, mse_range(rare)) < squared_error(rare, METHODS["minmax"](rare)) / 20


def test_the_error_is_that_of_rounding_the_values_themselves(outlier: Histogram) -> None:
    """Catches an error formula that leaves out clipping or the zero point."""
    for found in ((-3.0, 3.0), (-5.0, 8.0)):
        scale, zero = (float(part) for part in affine(*found))
        steps = np.clip(np.round(OUTLIER / scale) + zero, 0, 255)
        by_hand = np.mean((OUTLIER - (steps - zero) * scale) ** 2)
        assert squared_error(outlier, found) == pytest.approx(by_hand, rel=0.05)


def test_entropy_is_zero_for_steps_that_lose_nothing_and_grows_with_clipping() -> None:
    """Catches a divergence with its arguments swapped or left unnormalised."""
    exact = histogram_of(np.repeat(np.arange(256.0), 3))
    assert relative_entropy(exact, (0.0, 255.5)) == pytest.approx(0.0, abs=1e-9)
    bell = histogram_of(BELL)
    divergences = [relative_entropy(bell, (-limit, limit)) for limit in (4.0, 2.0, 1.0, 0.5)]
    assert divergences == sorted(divergences)
    assert divergences[0] >= 0


def test_a_one_sided_activation_keeps_its_side() -> None:
    """Catches a symmetric range that spends half of its steps on values that never come."""
    positive = histogram_of(np.abs(BELL))
    for method in METHODS.values():
        low, _ = method(positive)
        assert low >= 0
