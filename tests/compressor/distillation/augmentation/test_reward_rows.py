"""The rows that are held back to judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compressor.data.splits import Split, TaskData
from compressor.distillation.augmentation.reward_rows import reward_folds
from serving.errors import UserError
from serving.manifest import TaskSpec


def task(rows: int, texts: int | None = None) -> TaskData:
    spec = TaskSpec(name="topic", type="classification", labels=("a", "b"), metric="accuracy")
    split = Split([(f"text {row % (texts or rows)}",) for row in range(rows)], np.arange(rows) % 2)
    return TaskData(spec, {"train": split, "validation": split, "test": split}, ("text",))


@pytest.mark.parametrize(("rows", "expected"), [(200, 50), (100, 25), (80, 20), (70, 20), (60, 20), (50, 20), (40, 20)])
def test_a_quarter_is_held_back_but_no_fewer_than_twenty(rows: int, expected: int) -> None:
    """Catches a reward that a handful of rows decides, or one that takes most of the labels."""
    (mask,) = reward_folds(task(rows))
    labels = np.arange(rows) % 2
    assert expected <= int(mask.sum()) <= expected + 1
    assert abs(int(mask[labels == 0].sum()) - int(mask[labels == 1].sum())) <= 1


@pytest.mark.parametrize("rows", range(40, 83))
def test_no_number_of_rows_has_fewer_than_twenty_or_many_more(rows: int) -> None:
    """Catches half of fifty labels held back, where twenty of them are enough."""
    (mask,) = reward_folds(task(rows))
    assert 20 <= int(mask.sum()) <= 24


@pytest.mark.parametrize("rows", [8, 20, 39])
def test_few_rows_are_each_held_back_once(rows: int) -> None:
    """Catches rows that never judge, and rows that judge a student that has read them."""
    masks = reward_folds(task(rows))
    assert len(masks) == 4
    assert (np.sum(masks, axis=0) == 1).all()


def test_rows_of_one_text_are_held_back_together() -> None:
    """Catches a reward row whose text is among those that the student trains on."""
    (mask,) = reward_folds(task(120, texts=60))
    assert (mask[:60] == mask[60:]).all()


def test_too_few_texts_are_said_with_the_least_number() -> None:
    """Catches a selection that fails after the teacher was trained, and does not say how much is missing."""
    with pytest.raises(UserError, match="has 7 different texts; it needs at least 8"):
        reward_folds(task(70, texts=7))


def pairs(texts: list[tuple[str, str]]) -> TaskData:
    spec = TaskSpec(name="match", type="classification", labels=("a", "b"), metric="accuracy")
    split = Split(list(texts), np.arange(len(texts)) % 2)
    return TaskData(spec, {"train": split, "validation": split, "test": split}, ("query", "passage"))


@pytest.mark.parametrize("shared", [1, 3, 7])
def test_pairs_that_share_too_few_texts_are_said_by_their_groups(shared: int) -> None:
    """Catches many pairs over a few documents: nothing can be held back, and the error named a knob nobody had set."""
    data = pairs([(f"query {row}", f"passage {row % shared}") for row in range(200)])
    with pytest.raises(UserError, match=rf"'match' has {shared} groups of pairs without a text in common; it needs"):
        reward_folds(data)


@pytest.mark.parametrize("large", [0, 60, 120, 150])
def test_one_large_group_of_pairs_does_not_take_the_labels(large: int) -> None:
    """Catches 128 of 200 labelled pairs held back, because a popular passage ties them together."""
    data = pairs([(f"query {row}", "popular" if row < large else f"passage {row}") for row in range(200)])
    (mask,) = reward_folds(data)
    assert len(set(mask[:large].tolist())) <= 1, "rows of one text stay together"
    assert 40 <= int(mask.sum()) <= 60


def test_pairs_without_label_tie_no_labelled_ones_together() -> None:
    """Catches traffic over the same passages that leaves one group of all labelled pairs."""
    data = pairs([(f"query {row}", f"passage {row}") for row in range(60)])
    traffic = Split([(f"query {row}", f"passage {row + 1}") for row in range(59)])
    (mask,) = reward_folds(replace(data, splits={**data.splits, "unlabelled": traffic}))
    assert int(mask.sum()) == 20


@pytest.mark.parametrize("sizes", [(185,), (95, 95)])
def test_groups_that_leave_no_judge_are_refused(sizes: tuple[int, ...]) -> None:
    """Catches thirteen rows that judge a student which has read one popular passage and nothing else."""
    passages = [f"popular {group}" for group, size in enumerate(sizes) for _ in range(size)]
    passages += [f"passage {row}" for row in range(200 - sum(sizes))]
    data = pairs([(f"query {row}", passage) for row, passage in enumerate(passages)])
    with pytest.raises(UserError, match=r"20 training rows to a half of them .*'match' that share a text are too many"):
        reward_folds(data)
