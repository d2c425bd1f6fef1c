"""The interval, the correction and the smallest visible difference hold what they promise, by simulation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from compressor.comparison.statistics import (
    Difference,
    crossed_variance,
    holm,
    paired_difference,
    resampled_scores,
    smallest_visible,
)
from compressor.tasks.classification import accuracy, macro_f1
from export.statistics import bootstrap_interval

ROWS, RESAMPLES, EXPERIMENTS = 150, 200, 400
Floats = NDArray[np.float64]
COUNTS: Floats = np.random.default_rng(7).multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=RESAMPLES).astype(np.float64)


@dataclass(frozen=True)
class World:
    """How much of the difference between two methods varies with what.

    Attributes:
        seeds: standard deviation of a seed's effect on the difference of accuracies, at most 0.15.
        examples: half the width of an example's effect on the chance of a right answer, at most 0.35.
    """

    seeds: float
    examples: float

    def differences(self, rng: np.random.Generator, num_seeds: int, effect: float, count: int) -> Floats:
        """Bernoulli answers of two methods, right minus right: [count, seeds, rows], mean `effect`."""
        shape = (count, num_seeds, ROWS)
        answers = []
        for place, shift in enumerate((0.0, effect)):
            example = rng.uniform(-self.examples, self.examples, size=(count, 1, ROWS))
            bell = rng.uniform(-1, 1, size=(count, num_seeds, 1, 3)).sum(axis=-1)  # bounded: no chance leaves [0, 1]
            seed = self.seeds * place * bell
            answers.append((rng.random(shape) < 0.5 + shift + seed + example).astype(np.float64))
        right_minus_right: Floats = answers[1] - answers[0]
        return right_minus_right


WORLDS = {
    "seeds": World(seeds=0.15, examples=0.0),
    "examples": World(seeds=0.0, examples=0.35),
    "both": World(seeds=0.06, examples=0.3),
}


def judged(table: Floats) -> Difference:
    """The difference of one experiment's [seeds, rows] table of right minus right."""
    return paired_difference(table.mean(axis=1), COUNTS @ table.T / ROWS)


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("effect", [0.0, 0.04])
def test_the_interval_covers_the_true_difference(world: str, num_seeds: int, effect: float) -> None:
    """Prevents an interval that forgets the seeds or the examples and turns noise into a claimed gain."""
    rng = np.random.default_rng(3)
    tables = WORLDS[world].differences(rng, num_seeds, effect, EXPERIMENTS)
    covered = np.mean([found.low <= effect <= found.high for found in map(judged, tables)])
    assert covered >= 0.925, covered  # 0.95 less two standard errors of the simulation
    if world == "seeds":
        assert covered <= 0.985, covered  # seeds dominate: the degrees of freedom are right


def test_naive_intervals_are_too_narrow() -> None:
    """Prevents a simplification to one of the two intervals that everybody would write first."""
    rng = np.random.default_rng(4)
    tables = World(seeds=0.12, examples=0.1).differences(rng, 5, 0.0, EXPERIMENTS)
    over_seeds = over_examples = ours = 0
    for table in tables:
        per_seed = table.mean(axis=1)
        drawn = per_seed[rng.integers(0, 5, size=(RESAMPLES, 5))].mean(axis=1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        over_seeds += bool(low <= 0 <= high)
        low, high = np.quantile((COUNTS @ table.T / ROWS).mean(axis=1), (0.025, 0.975))
        over_examples += bool(low <= 0 <= high)
        found = judged(table)
        ours += found.low <= 0 <= found.high
    assert over_seeds / EXPERIMENTS < 0.88
    assert over_examples / EXPERIMENTS < 0.85
    assert ours / EXPERIMENTS > 0.93


@pytest.mark.parametrize("num_seeds", [3, 10])
@pytest.mark.parametrize("world", WORLDS)
def test_the_variance_counts_nothing_twice_and_forgets_nothing(world: str, num_seeds: int) -> None:
    """Prevents a variance that is only on the safe side: it would hide gains that are there."""
    rng = np.random.default_rng(5)
    tables = WORLDS[world].differences(rng, num_seeds, 0.0, 1500)
    true = float(np.var(tables.mean(axis=(1, 2)), ddof=1))
    estimates = [crossed_variance(t.mean(axis=1), COUNTS @ t.T / ROWS) for t in tables[:EXPERIMENTS]]
    assert 0.85 * true < np.mean(estimates) < 1.3 * true, (np.mean(estimates), true)  # the floor lifts it a little


def test_holm_keeps_the_chance_of_any_false_claim() -> None:
    """Prevents a table of six methods in which one gain in four comes from looking often."""
    rng = np.random.default_rng(6)
    count, family = 400, 6
    tables = [WORLDS["seeds"].differences(rng, 5, 0.0, count) for _ in range(family)]
    shared = WORLDS["seeds"].differences(rng, 5, 0.0, count) / 2  # the control that all are compared with
    p_values = np.array([[judged(t[i] + shared[i]).p_value for t in tables] for i in range(count)])
    claimed = np.mean([min(holm(list(row))) <= 0.05 for row in p_values])
    assert claimed <= 0.075, claimed
    assert np.mean(p_values.min(axis=1) <= 0.05) > 0.12  # what the correction is for


@pytest.mark.parametrize("comparisons", [1, 4])
def test_the_smallest_visible_difference_is_seen_four_times_in_five(comparisons: int) -> None:
    """Prevents 'could have seen 0.01' where a difference of 0.01 would mostly have been missed."""
    rng = np.random.default_rng(8)
    world, num_seeds = World(seeds=0.06, examples=0.0), 5
    quiet = world.differences(rng, num_seeds, 0.0, 1500)
    visible = smallest_visible(float(quiet.mean(axis=(1, 2)).std()), num_seeds, comparisons=comparisons)
    assert visible is not None
    p_values = [judged(table).p_value for table in world.differences(rng, num_seeds, visible, EXPERIMENTS)]
    seen = np.mean([p is not None and p <= 0.05 / comparisons for p in p_values])
    assert 0.73 <= seen <= 0.88, seen


def test_visible_difference_by_the_noncentral_t() -> None:
    """Prevents the textbook sum of two t quantiles, whose power is 73% for two seeds."""
    for num_seeds in (2, 3, 5, 20):
        freedom = num_seeds - 1
        visible = smallest_visible(1.0, num_seeds)
        assert visible is not None
        assert stats.nct.sf(stats.t.ppf(0.975, freedom), freedom, visible) == pytest.approx(0.8, abs=1e-6)
    assert smallest_visible(1.0, 1) is None


def test_holm_by_hand() -> None:
    """Prevents an order, a factor or a monotony that is off by one."""
    assert holm([0.01, 0.04, 0.03, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.2])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_by_hand() -> None:
    """Prevents a wrong divisor or degrees of freedom, which no simulation resolves sharply."""
    per_seed = np.array([0.01, 0.02, 0.06])
    resampled = np.tile([[0.0, 0.0, 0.0], [0.02, 0.02, 0.02]], (500, 1))
    a, b = float(np.var(per_seed, ddof=1)) / 3, 1e-4 * 1000 / 999
    found = paired_difference(per_seed, resampled)
    assert found.value == pytest.approx(0.03)
    assert found.standard_error**2 == pytest.approx(a + b)  # every seed moves alike: c equals b
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 2) * found.standard_error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.03 / found.standard_error, 2))
    assert found.num_seeds == 3


def test_what_is_counted_twice_is_taken_off_once() -> None:
    """Prevents the sign or the divisor of the correction from being turned round."""
    per_seed = np.array([0.0, 0.0])
    resampled = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])  # independent over the seeds
    over_examples, within = 2 / 3, 4 / 3
    assert crossed_variance(per_seed, resampled) == pytest.approx(max(0 + 2 / 3 - (within - over_examples), 2 / 3))
    assert crossed_variance(np.array([0.0, 3.0]), resampled) == pytest.approx(9 / 4 + 2 / 3 - 2 / 3)


def test_one_seed_has_an_interval_over_examples_and_no_p_value() -> None:
    """Prevents a gain claimed from one training."""
    table = WORLDS["both"].differences(np.random.default_rng(9), 1, 0.3, 1)[0]
    found = judged(table)
    assert found.p_value is None
    assert found.low < found.value < found.high


def test_the_same_answers_are_no_difference() -> None:
    """Prevents a division by zero, and a claim, where a weight of 0 makes the method its control."""
    found = paired_difference(np.zeros(3), np.zeros((50, 3)))
    assert (found.low, found.value, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_resamples_are_common_and_undefined_ones_are_left_out() -> None:
    """Prevents unpaired resamples, whose noise does not cancel between two methods."""
    rng = np.random.default_rng(10)
    labels = rng.integers(0, 3, size=60)
    answers = [rng.integers(0, 3, size=60) for _ in range(2)]
    both = resampled_scores(macro_f1, labels, answers, samples=40)
    assert both.shape == (40, 2)
    alone = resampled_scores(macro_f1, labels, answers[1:], samples=40)
    np.testing.assert_array_equal(both[:, 1:], alone)
    expected = bootstrap_interval(accuracy, labels, answers[0], samples=400)
    drawn = resampled_scores(accuracy, labels, answers[:1], samples=400)
    assert np.quantile(drawn, (0.025, 0.975)) == pytest.approx(expected[1:], abs=0.03)
    holed = np.vstack([both, [[np.nan, 0.5]]])
    assert paired_difference(both[0], holed).standard_error == pytest.approx(
        paired_difference(both[0], both).standard_error, rel=0.05
    )
