"""Which rows of several tasks an epoch reads: the paper's probabilities, and passes that are finished."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compressor.data.mixture import TaskMixture, TaskPools, pool_shares, task_probabilities

GLUE = {
    "cola": 8551, "mnli": 392702, "mrpc": 7336, "qnli": 108436,
    "qqp": 363869, "sst": 67349, "sts": 11498, "rte": 2490,
}  # fmt: skip


def test_the_probabilities_are_those_of_the_paper() -> None:
    """Golden values: another exponent, or one that is applied twice, would still sum to 1."""
    expected = [0.0203, 0.3581, 0.0181, 0.1364, 0.3382, 0.0954, 0.0253, 0.0080]
    np.testing.assert_allclose(task_probabilities(list(GLUE.values()), 0.75), expected, rtol=0, atol=5e-5)


def test_the_ends_of_the_exponent_are_equal_tasks_and_equal_rows() -> None:
    """Catches an ablation that is another one."""
    np.testing.assert_allclose(task_probabilities([10, 1000, 90], 0.0), [1 / 3] * 3)
    np.testing.assert_allclose(task_probabilities([10, 1000, 90], 1.0), np.array([10, 1000, 90]) / 1100)


@pytest.mark.parametrize(
    ("sizes", "exponent", "said"),
    [([3, 0], 0.5, r"\[3, 0\] rows"), ([3, 4], 1.5, "1.5; it must be in"), ([3, 4], -0.1, "-0.1; it must be in")],
)
def test_impossible_mixtures_are_refused(sizes: list[int], exponent: float, said: str) -> None:
    """Catches a task that is drawn and has nothing to read."""
    with pytest.raises(ValueError, match=said):
        task_probabilities(sizes, exponent)


@pytest.mark.parametrize("exponent", [0.75, 0.0, 1.0])
def test_tasks_are_drawn_as_often_as_their_probability_says(exponent: float) -> None:
    """A biased draw shifts the balance of the tasks without any other trace; fixed seed, p > 1e-4."""
    sizes, number = [4000, 500, 120, 30], 1163
    mixture = TaskMixture(sizes, task_probabilities(sizes, exponent), seed=11)
    firsts = np.cumsum(sizes)
    drawn = sum(
        np.bincount(np.searchsorted(firsts, mixture.rows(epoch, number), side="right"), minlength=4)
        for epoch in range(20)
    )
    expected = 20 * number * task_probabilities(sizes, exponent)
    assert stats.chisquare(drawn, expected).pvalue > 1e-4
    again = sum(
        TaskMixture(sizes, task_probabilities(sizes, exponent), seed=seed).counts(0, number) for seed in range(300)
    )
    assert stats.chisquare(again, 300 * number * task_probabilities(sizes, exponent)).pvalue > 1e-4


def test_how_often_a_task_is_drawn_varies_as_independent_draws_do() -> None:
    """Catches counts that are only rounded shares: the sampling would no longer be the paper's."""
    counts = np.array(
        [
            TaskMixture([300, 100], task_probabilities([300, 100], 1.0), seed=seed).counts(0, 400)[0]
            for seed in range(500)
        ]
    )
    assert stats.chisquare(*spread(counts, 400, 0.75)).pvalue > 1e-4


def spread(counts: np.ndarray, number: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Observed and expected numbers of counts between the quartiles of the binomial distribution."""
    edges = stats.binom.ppf([0.25, 0.5, 0.75], number, share)
    found = np.bincount(np.searchsorted(edges, counts, side="left"), minlength=4)
    below = np.array([0.0, *stats.binom.cdf(edges, number, share), 1.0])
    return found, len(counts) * np.diff(below)


@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4), number=st.integers(1, 90), seed=st.integers(0, 99))
def test_no_row_is_read_twice_more_than_another_of_its_task(sizes: list[int], number: int, seed: int) -> None:
    """Catches rows drawn with replacement, and passes that begin anew with every epoch."""
    mixture = TaskMixture(sizes, task_probabilities(sizes, 0.5), seed=seed)
    read: Counter[int] = Counter()
    ends = np.cumsum(sizes)
    for epoch in range(4):
        rows = mixture.rows(epoch, number)
        assert len(rows) == number
        assert np.bincount(np.searchsorted(ends, rows, side="right"), minlength=len(sizes)).tolist() == list(
            mixture.counts(epoch, number)
        )
        read.update(rows.tolist())
        for first, end in zip([0, *ends], ends, strict=False):
            times = [read[row] for row in range(first, end)]
            assert max(times) - min(times) <= 1
    assert max(read) < ends[-1]


def test_passes_are_shuffled_anew_and_tasks_have_orders_of_their_own() -> None:
    """Catches one permutation for all passes, or for all tasks of one size."""
    mixture = TaskMixture([50, 50], task_probabilities([50, 50], 0.0), seed=0)
    first, second = (mixture._stream(0, begin, 50).tolist() for begin in (0, 50))
    other = mixture._stream(1, 0, 50).tolist()
    assert sorted(first) == sorted(second) == sorted(other) == list(range(50))
    assert first != second
    assert first != other
    assert mixture._stream(0, 20, 60).tolist() == [*first, *second][20:80]
    assert TaskMixture([50, 50], task_probabilities([50, 50], 0.0), seed=1)._stream(0, 0, 50).tolist() != first


def test_epochs_are_drawn_apart() -> None:
    """Catches an epoch that repeats the counts of the one before."""
    mixture = TaskMixture([5000, 5000], task_probabilities([5000, 5000], 0.5), seed=0)
    assert len({tuple(mixture.counts(epoch, 5000)) for epoch in range(6)}) > 3


def test_added_rows_change_no_tasks_share() -> None:
    """Catches a task that is drawn more often because texts were added to it: its own rows count."""
    plain = task_probabilities([100, 400], 0.75)
    pools = pool_shares([TaskPools(100, 900), TaskPools(400)], 0.75, None)
    assert [size for size, _ in pools] == [100, 900, 400]
    shares = [share for _, share in pools]
    assert shares[0] + shares[1] == pytest.approx(plain[0])
    assert shares[2] == pytest.approx(plain[1])
    assert shares[0] == pytest.approx(plain[0] * 0.1)
    half = [share for _, share in pool_shares([TaskPools(100, 900), TaskPools(400)], 0.75, 0.5)]
    assert half[:2] == pytest.approx([plain[0] / 2, plain[0] / 2])
    assert pool_shares([TaskPools(7)], 0.75, 0.5) == [(7, 1.0)]
