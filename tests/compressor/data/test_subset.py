"""Few labelled rows: in proportion, every label kept, other rows for another seed, and never in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.data.prepare import prepare
from compressor.data.splits import Split, TaskData
from compressor.data.subset import draw_rows
from compressor.recipe import TaskSettings
from serving.errors import UserError
from serving.manifest import TaskSpec

CLASSES = TaskSpec(name="topic", type="classification", labels=("a", "b", "c"))
FLAGS = TaskSpec(name="flags", type="multilabel", labels=("x", "y", "z"))
VALUE = TaskSpec(name="value", type="regression")


def rows(labels: Any) -> Split:
    return Split([(f"text {index}",) for index in range(len(labels))], np.asarray(labels))


def test_classes_keep_their_proportions() -> None:
    """Catches a uniform draw, which gives few labels another balance than the data have."""
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    for seed in range(5):
        kept = draw_rows(rows(labels), CLASSES, 100, seed=seed)
        assert np.bincount(labels[kept]).tolist() == [60, 30, 10]


def test_a_rare_class_keeps_one_row() -> None:
    """Catches a class without a training row: the student could never answer it."""
    labels = np.repeat([0, 1, 2], [500, 498, 2])
    for seed in range(20):
        kept = draw_rows(rows(labels), CLASSES, 10, seed=seed)
        assert kept.sum() == 10
        assert np.bincount(labels[kept]).min() == 1
    assert np.bincount(labels[draw_rows(rows(labels), CLASSES, 3, seed=0)]).tolist() == [1, 1, 1]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(4, 60), st.data())
def test_of_several_labels_each_keeps_a_row(seed: int, size: int, data: st.DataObject) -> None:
    """Catches a rare label of a multilabel task that a draw by rows loses."""
    labels = (np.random.default_rng(seed).random((size, 3)) < [0.7, 0.3, 0.05]).astype(np.float32)
    labels[:3] = np.eye(3)
    number = data.draw(st.integers(3, size))
    kept = draw_rows(rows(labels), FLAGS, number, seed=seed)
    assert kept.sum() == number
    assert labels[kept].sum(axis=0).min() >= 1


def test_numbers_are_drawn_from_the_whole_range() -> None:
    """Catches a draw that leaves the ends of a regression's range out."""
    values = np.random.default_rng(0).exponential(size=1000).astype(np.float32)
    for seed in range(5):
        kept = values[draw_rows(rows(values), VALUE, 50, seed=seed)]
        counts, _ = np.histogram(kept, np.quantile(values, np.linspace(0, 1, 11)))
        assert counts.tolist() == [5] * 10


def test_a_seed_draws_its_own_rows_and_the_same_ones_again() -> None:
    """Catches seeds that share their rows: a spread over seeds would leave out that of the labels."""
    labels = np.repeat([0, 1, 2], 100)
    first, again, other = (draw_rows(rows(labels), CLASSES, 30, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert 0 < (first & other).sum() < 20


def test_too_many_and_too_few_rows_are_errors_that_say_how_many_there_are() -> None:
    """Catches a silent 'all there are', and a class dropped without a word."""
    split = rows([0, 0, 1, 2])
    with pytest.raises(UserError, match=r"train_rows is 5, but task 'topic' has 4 training rows.* at most 4"):
        draw_rows(split, CLASSES, 5, seed=0)
    with pytest.raises(UserError, match=r"train_rows is 2, but one row of every label takes 3 rows.* at least 3"):
        draw_rows(split, CLASSES, 2, seed=0)
    assert draw_rows(split, CLASSES, 4, seed=0).all()


def prepared(path: Path, **changes: Any) -> TaskData:
    return prepare({"topic": TaskSettings.model_validate({"data": str(path), "label": "topic", **changes})})["topic"]


def test_evaluation_rows_do_not_depend_on_the_subset_and_the_user_is_told(toy_file: Path) -> None:
    """Catches a test split that shrinks with train_rows: figures of two sizes could not be compared."""
    everything, some, other = (
        prepared(toy_file, text="text", **changes)
        for changes in ({}, {"train_rows": 30}, {"train_rows": 30, "train_rows_seed": 1})
    )
    for name in ("validation", "test"):
        assert some.splits[name].texts == everything.splits[name].texts
    assert len(some.splits["train"]) == 30
    assert set(some.splits["train"].texts) < set(everything.splits["train"].texts)
    assert set(some.splits["train"].texts) != set(other.splits["train"].texts)
    total = len(everything.splits["train"])
    said = f"train_rows: 30 of {total} train rows are used (in the labels' proportions, seed 0), the other {total - 30}"
    assert any(notice.startswith(said) for notice in some.notices)
    assert some.dropped == everything.dropped
    assert not any("train_rows" in notice for notice in everything.notices)


def test_a_regression_reads_its_range_from_the_rows_that_are_used(tmp_path: Path) -> None:
    """Catches a range that is known only from labels that the run was told not to have."""
    table = [{"text": f"text {index}", "value": index / 4} for index in range(200)]
    path = tmp_path / "values.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    settings = TaskSettings.model_validate({"data": str(path), "label": "value", "type": "regression", "train_rows": 5})
    data = prepare({"value": settings})["value"]
    labels = np.asarray(data.splits["train"].labels)
    assert data.task.range == (labels.min(), labels.max())
