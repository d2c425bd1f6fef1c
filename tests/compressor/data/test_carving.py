"""Splits carved from train: the same each time, in proportion, no text on both sides, no label lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.data.carving import CARVING_SEED, carve, group_by_text, groups_to_keep, strata_of
from compressor.data.splits import Split
from serving.errors import UserError
from serving.manifest import TaskType

NOTHING = np.zeros(0, dtype=np.int64)


def test_single_texts_group_by_their_normal_form() -> None:
    """The same text in train and in the carved test is known by heart."""
    assert group_by_text([("A?",), ("b",), ("a",), ("c",)]).tolist() == [0, 1, 0, 2]


def test_pairs_group_through_either_side() -> None:
    """A premise shared by three hypotheses gives the answer away; so does a chain of shared sides."""
    pairs: list[tuple[str, ...]] = [
        ("p", "h1"),
        ("q", "h2"),
        ("h2", "r"),
        ("p", "h3"),
        ("x", "y"),
        ("r.", "z"),
    ]
    assert group_by_text(pairs).tolist() == [0, 1, 1, 0, 2, 1]


def test_every_class_gives_its_share() -> None:
    """A random cut leaves small classes out of a small test split."""
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    chosen = carve(np.arange(1000), [labels], 0.2, kept=NOTHING)
    assert np.bincount(labels[chosen]).tolist() == pytest.approx([120, 60, 20], abs=1)


def test_tasks_over_the_same_rows_share_their_proportions() -> None:
    """Carved for one task alone, the other's rare class could be missing from test."""
    first, second = np.repeat([0, 1], 500), np.tile(np.repeat([0, 1], [9, 1]), 100)
    chosen = carve(np.arange(1000), [first, second], 0.2, kept=NOTHING)
    assert np.bincount(first[chosen]).tolist() == pytest.approx([100, 100], abs=1)
    assert np.bincount(second[chosen]).tolist() == pytest.approx([180, 20], abs=2)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=30, max_size=120), st.integers(0, 5))
def test_groups_stay_whole_and_labels_stay_in_train(rows: list[tuple[int, int]], seed: int) -> None:
    """Whatever the groups: nothing on both sides, and no label that only the carved split has."""
    groups = np.unique([group for group, _ in rows], return_inverse=True)[1]
    labels = np.unique([label for _, label in rows], return_inverse=True)[1]
    split = Split([(str(group),) for group in groups], labels)
    kept = groups_to_keep(groups, split, "classification", seed=seed)
    try:
        chosen = carve(groups, [labels], 0.2, kept=kept, seed=seed)
    except UserError:
        return
    assert not set(groups[chosen]) & set(groups[~chosen])
    assert set(labels) == set(labels[~chosen])
    assert 0 < chosen.sum() < len(rows) / 2


def test_the_carving_does_not_change_between_releases() -> None:
    """Other rows in test make every figure of the past incomparable, with nothing to show for it."""
    assert CARVING_SEED == 20_240_229
    chosen = carve(np.arange(50), [np.repeat([0, 1], 25)], 0.1, kept=NOTHING)
    assert np.flatnonzero(chosen).tolist() == [7, 9, 19, 33, 44]


def test_order_within_a_class_is_random() -> None:
    """Files are often sorted; taking the first of each class would test on one source or one day."""
    chosen = carve(np.arange(1000), [np.zeros(1000, dtype=np.int64)], 0.2, kept=NOTHING)
    assert np.bincount(np.flatnonzero(chosen) // 250).tolist() == pytest.approx([50] * 4, abs=20)


def test_too_few_texts_are_refused() -> None:
    """An empty or one-row test split would be a figure of nothing."""
    with pytest.raises(UserError, match="4 rows with 2 different texts are too few to take 20%"):
        carve(np.array([0, 0, 0, 1]), [np.zeros(4, dtype=np.int64)], 0.2, kept=np.array([0, 1]))


@pytest.mark.parametrize(
    ("task_type", "labels", "expected"),
    [
        ("classification", np.array([2, 0, 1]), [2, 0, 1]),
        ("regression", np.arange(20, dtype=np.float32), [i // 2 for i in range(20)]),
        ("multilabel", np.array([[1, 0], [1, 1], [0, 0], [1, 0]], dtype=np.float32), [0, 1, -1, 0]),
    ],
)
def test_strata_of_every_task_type(task_type: TaskType, labels: np.ndarray, expected: list[int]) -> None:
    """A multilabel row counts for its rarest label, or that label may vanish from test."""
    assert strata_of(Split([("x",)] * len(labels), labels), task_type).tolist() == expected


def test_a_group_is_kept_for_every_label_of_a_multilabel_task() -> None:
    """A label whose only rows were carved would be unknown to the student."""
    split = Split([("x",)] * 4, np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 1]], dtype=np.float32))
    kept = groups_to_keep(np.arange(4), split, "multilabel", seed=0)
    assert kept[1:].tolist() == [1, 3]
