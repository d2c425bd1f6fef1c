"""Churn: directions, slices, and intervals that neither a quiet slice nor the choice of the worst can flatter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from export.churn import drop_interval, measure_churn
from serving.manifest import TaskSpec

INTENT = TaskSpec(name="intent", type="classification", labels=("a", "b", "c"))
TAGS = TaskSpec(name="tags", type="multilabel", labels=("x", "y"))
STARS = TaskSpec(name="stars", type="regression", range=(1.0, 5.0))


def test_flips_are_counted_by_direction() -> None:
    """Right to wrong and wrong to right have the same sum in both orders: a swap would praise the loser."""
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    before = np.array([0, 0, 1, 1, 0, 0, 2])
    after = np.array([0, 1, 0, 2, 2, 0, 2])
    found = measure_churn(INTENT, labels, before, after, [3] * 7)
    assert found.flips is not None
    assert (found.flips.right_to_wrong, found.flips.wrong_to_right, found.flips.wrong_to_wrong) == (2, 1, 1)
    assert found.flips.total == 4
    assert found.share is not None
    assert found.share.value == pytest.approx(4 / 7)
    assert found.drop.value == pytest.approx(1 / 7)
    assert measure_churn(INTENT, labels, after, before, [3] * 7).drop.value == pytest.approx(-1 / 7)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_what_changed_is_what_differs(seed: int, rows: int) -> None:
    """Directions must add up to the answers that differ, and to the difference of the two accuracies."""
    labels, before, after = np.random.default_rng(seed).integers(0, 3, (3, rows))
    found = measure_churn(INTENT, labels, before, after, [4] * rows)
    assert found.flips is not None
    assert found.flips.total == (before != after).sum()
    assert found.drop.value == pytest.approx((before == labels).mean() - (after == labels).mean())
    assert found.drop.low <= found.drop.value <= found.drop.high
    swapped = measure_churn(INTENT, labels, after, before, [4] * rows)
    assert (swapped.drop.low, swapped.drop.high) == pytest.approx((-found.drop.high, -found.drop.low))


def test_all_labels_of_a_text_are_one_answer_and_a_class_has_its_own() -> None:
    """A label that changes in half of the texts would vanish in a mean over all labels."""
    labels = np.array([[1.0, 1.0]] * 60 + [[1.0, 0.0]] * 60)
    before = labels.astype(bool)
    after = before.copy()
    after[:10, 1] = False  # of the 60 texts with y, ten lose it
    after[60:65, 1] = True  # five get it wrongly
    found = measure_churn(TAGS, labels, before, after, [4] * 120)
    assert found.flips is not None
    assert (found.flips.right_to_wrong, found.flips.wrong_to_wrong) == (15, 0)
    parts = {part.name: part for part in found.slices}
    assert parts["x"].drop.value == 0.0
    assert parts["y"].drop.value == pytest.approx(10 / 60)
    assert parts["y"].rows == 60
    flips = parts["y"].flips
    assert flips is not None
    assert flips.right_to_wrong == 10


def test_a_regression_loses_by_its_error() -> None:
    """Values never repeat exactly: counted as flips, all texts would have changed."""
    labels = np.linspace(1.0, 5.0, 80, dtype=np.float32)
    found = measure_churn(STARS, labels, labels + 0.2, labels - 0.6, [3] * 40 + [9] * 40)
    assert found.flips is None
    assert found.share is None
    assert found.drop.value == pytest.approx(0.4 / 4)
    assert found.drop.low == pytest.approx(0.1, abs=1e-6)  # every text lost as much
    assert found.slices == ()
    assert found.left_out == ("3 tokens", "9 tokens")


def test_a_slice_without_a_flip_is_not_certain() -> None:
    """No flip among 60 texts is compatible with a loss of several points: an empty interval would pass any gate."""
    low, high = drop_interval(np.zeros(60), is_binary=True, confidence=0.95)
    spread = 1.959964 * np.sqrt((2 / 62) / 62)
    assert (low, high) == pytest.approx((-spread, spread))
    assert drop_interval(np.zeros(6000), is_binary=True, confidence=0.95)[1] < 0.001


def test_the_interval_is_bonett_and_prices() -> None:
    """The published formula with its counts: 8 lost and 3 won of 100."""
    losses = np.array([1.0] * 8 + [-1.0] * 3 + [0.0] * 89)
    lost, won = 9 / 102, 4 / 102
    margin = 1.959964 * np.sqrt((lost + won - (lost - won) ** 2) / 102)
    found = drop_interval(losses, is_binary=True, confidence=0.95)
    assert found == pytest.approx((lost - won - margin, lost - won + margin))


def test_the_worst_slice_is_judged_as_the_worst_of_all() -> None:
    """Ten slices at 95% each: one of them is out by chance in every second run, and its gate would fail."""
    rng = np.random.default_rng(0)
    task = TaskSpec(name="t", type="classification", labels=tuple("abcdefgh"))
    missed = 0
    for _ in range(60):
        labels = rng.integers(0, 8, 800)
        before = np.where(rng.random(800) < 0.8, labels, (labels + 1) % 8)
        after = np.where(rng.random(800) < 0.8, labels, (labels + 2) % 8)  # as good: every true drop is 0
        found = measure_churn(task, labels, before, after, rng.integers(4, 40, 800).tolist())
        assert found.worst_drop is not None
        value, low, high = found.worst_drop
        assert value == max(part.drop.value for part in found.slices)
        assert high == max(part.drop.high for part in found.slices)  # of a smaller slice, often
        assert low <= value <= high
        missed += low > 0.0
    assert missed <= 6


def test_more_slices_make_wider_intervals() -> None:
    """The correction must follow the number of slices that count, not all that exist."""
    labels = np.repeat([0, 1], [100, 10])  # class b has too few texts
    found = measure_churn(INTENT, labels, labels, labels, [5] * 110)
    assert [part.name for part in found.slices] == ["a", "5 tokens"]
    assert found.left_out == ("b",)
    width = found.slices[0].drop.high
    assert width == pytest.approx(norm.ppf(1 - 0.05 / 4) * np.sqrt((2 / 102) / 102))


def test_the_worst_slice_is_found_where_the_mean_hides_it() -> None:
    """Class c loses a fifth while all others win a little: the mean over all texts says that nothing happened."""
    labels = np.repeat([0, 1, 2], [300, 300, 100])
    before, after = labels.copy(), labels.copy()
    before[:20] = 1
    after[620:640] = 0
    found = measure_churn(INTENT, labels, before, after, [5] * 700)
    assert found.drop.value == 0.0
    assert found.worst is not None
    assert found.worst.name == "c"
    assert found.worst_drop is not None
    assert found.worst_drop[0] == pytest.approx(0.2)
    assert found.worst_drop[1] > 0.05


def test_without_slices_there_is_no_worst() -> None:
    """Too few texts for any slice must not read as a drop of nothing."""
    found = measure_churn(INTENT, np.zeros(20, dtype=int), np.zeros(20, dtype=int), np.zeros(20, dtype=int), [3] * 20)
    assert found.slices == ()
    assert found.worst is None
    assert found.worst_drop is None
    assert found.left_out == ("a", "3 tokens")
