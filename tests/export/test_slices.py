"""Slices: every text where it belongs, and none cut away by a quantile."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from export.slices import MIN_ROWS, NUM_LENGTHS, large_enough, slices_of
from serving.manifest import TaskSpec

INTENT = TaskSpec(name="intent", type="classification", labels=("a", "b", "c"))
TAGS = TaskSpec(name="tags", type="multilabel", labels=("x", "y"))
STARS = TaskSpec(name="stars", type="regression")


def test_a_class_holds_the_texts_of_its_label() -> None:
    """A class by answer, or shifted by one, would blame the wrong texts; an absent class is no slice."""
    found = slices_of(INTENT, np.array([2, 0, 2, 2]), [4, 4, 4, 4])
    assert [(part.kind, part.name, part.rows.tolist(), part.label) for part in found] == [
        ("class", "a", [1], 0),
        ("class", "c", [0, 2, 3], 2),
        ("length", "4 tokens", [0, 1, 2, 3], None),
    ]


def test_a_text_may_be_of_several_classes_or_of_none() -> None:
    """The highest label alone would leave most texts of a rare label out of its slice."""
    found = slices_of(TAGS, np.array([[1, 1], [0, 0], [0, 1]]), [3, 3, 3])
    assert [(part.name, part.rows.tolist()) for part in found[:-1]] == [("x", [0]), ("y", [0, 2])]


def test_lengths_are_cut_into_quarters() -> None:
    """Quarters of the range instead of the texts would put nearly all into the first one."""
    lengths = [*range(2, 18), *[90] * 4]
    found = slices_of(STARS, np.zeros(20), lengths)
    assert [part.name for part in found] == ["2 to 6 tokens", "7 to 11 tokens", "12 to 16 tokens", "17 to 90 tokens"]
    assert [len(part.rows) for part in found] == [5, 5, 5, 5]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=80))
def test_every_text_has_exactly_one_length(lengths: list[int]) -> None:
    """A text at a cut would be counted twice or nowhere; texts of one length are never parted."""
    found = slices_of(STARS, np.zeros(len(lengths)), lengths)
    assert sorted(np.concatenate([part.rows for part in found]).tolist()) == list(range(len(lengths)))
    assert len(found) <= NUM_LENGTHS
    of_length = [{lengths[row] for row in part.rows} for part in found]
    assert sum(map(len, of_length)) == len(set(lengths))
    assert all(max(first) < min(second) for first, second in pairwise(of_length))


def test_small_slices_are_told_apart() -> None:
    """One text less than the minimum is too few, the minimum is not."""
    labels = np.repeat([0, 1], [MIN_ROWS, MIN_ROWS - 1])
    kept, left_out = large_enough(slices_of(INTENT, labels, [5] * len(labels)))
    assert [part.name for part in kept] == ["a", "5 tokens"]
    assert [part.name for part in left_out] == ["b"]
