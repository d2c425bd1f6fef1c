"""Which training rows a fold's teacher must not have seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.data.folds import NO_FOLD, fold_numbers, labels_in_one_fold, without_fold
from compressor.data.splits import Split, TaskData, training_texts
from serving.errors import UserError
from serving.manifest import TaskSpec

Make = Callable[..., TaskData]


@pytest.fixture
def make() -> Make:
    return made


def made(texts: list[str], labels: list[int], *, name: str = "topic", unlabelled: tuple[str, ...] = ()) -> TaskData:
    """A classification over some texts."""
    names = tuple(f"label {label}" for label in range(max(labels) + 1))
    splits = {"train": Split([tuple(text.split("|")) for text in texts], np.array(labels))}
    splits |= {"validation": splits["train"], "test": splits["train"]}
    if unlabelled:
        splits["unlabelled"] = Split([(text,) for text in unlabelled])
    return TaskData(TaskSpec(name=name, type="classification", labels=names), splits, ("text",))


@settings(max_examples=60)
@given(
    kinds=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=13, max_size=60),
    folds=st.integers(2, 4),
)
def test_rows_that_share_a_text_are_in_one_fold_and_every_fold_has_rows(
    kinds: list[tuple[int, int]], folds: int
) -> None:
    """Catches a row answered by a teacher that has read its text under another row, and a fold of nothing."""
    texts = [f"Text {text}" for text, _ in kinds]
    data = made(texts, [label for _, label in kinds])
    if len(set(texts)) < folds:
        with pytest.raises(UserError, match=f"{len(set(texts))} different texts"):
            fold_numbers({"topic": data}, folds)
        return
    numbers = fold_numbers({"topic": data}, folds)["topic"]
    assert set(numbers.tolist()) == set(range(folds))
    for text in set(texts):
        assert len({number for number, other in zip(numbers, texts, strict=True) if other == text}) == 1
    assert np.array_equal(numbers, fold_numbers({"topic": data}, folds)["topic"])


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_have_like_shares_of_every_label(make: Make, folds: int) -> None:
    """Catches a fold's teacher that has seen a label hardly or never."""
    labels = [0] * 50 + [1] * 17 + [2] * 6 + [label for label in range(3, 23) for _ in range(5)]
    data = make([f"text {row}" for row in range(173)], labels)
    numbers = fold_numbers({"topic": data}, folds)["topic"]
    for label in range(23):
        counts = np.bincount(numbers[np.array(labels) == label], minlength=folds)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(numbers)
    assert sizes.max() - sizes.min() <= 3
    assert labels_in_one_fold(data, numbers) == []


def test_folds_are_drawn_and_not_cut_in_the_files_order(make: Make) -> None:
    """Catches folds that follow an order of the file (by date, by source), which the labels do not show."""
    numbers = fold_numbers({"topic": make([f"text {row}" for row in range(90)], [0, 1, 2] * 30)}, 3)["topic"]
    assert not np.array_equal(numbers, np.sort(numbers))
    assert len({tuple(numbers[start : start + 9]) for start in range(0, 90, 9)}) > 5


def test_tasks_of_one_teacher_share_their_folds_by_text(make: Make) -> None:
    """Catches a multi-task teacher that has read a row's text under its other task."""
    texts = [f"text {row}" for row in range(40)]
    topic = make(texts, [0, 1] * 20)
    mood = make([texts[row].upper() for row in range(39, 9, -1)], [0, 1, 2] * 10, name="mood")
    found = fold_numbers({"topic": topic, "mood": mood}, 4)
    for row, number in enumerate(found["mood"]):
        assert number == found["topic"][39 - row]
    alone = fold_numbers({"topic": topic}, 4)["topic"]
    assert len(found["topic"]) == len(alone) == 40


def test_pairs_that_share_either_side_are_in_one_fold(make: Make) -> None:
    """Catches a premise that the teacher of a fold knows from another pair."""
    data = make(["a|b", "c|a", "c|d", "e|f", "g|h", "i|h"], [0, 1, 0, 1, 0, 1])
    numbers = fold_numbers({"topic": data}, 2)["topic"]
    assert len(set(numbers[:3].tolist())) == 1
    assert numbers[4] == numbers[5]


def test_a_text_without_label_has_no_fold_unless_a_row_has_its_text(make: Make) -> None:
    """Catches traffic that is answered by a teacher which had its text, with the label, among the training rows."""
    data = make([f"text {row}" for row in range(8)], [0, 1] * 4, unlabelled=("new", "TEXT  3", "other"))
    numbers = fold_numbers({"topic": data}, 2)["topic"]
    assert len(numbers) == len(training_texts(data)) == 11
    assert numbers[8] == numbers[10] == NO_FOLD
    assert numbers[9] == numbers[3]


def test_a_folds_teacher_is_trained_on_the_other_labelled_rows_alone(toy_data: TaskData) -> None:
    """Catches a teacher that sees the rows it is to answer, or that is judged on fewer validation rows."""
    numbers = fold_numbers({"topic": toy_data}, 3)["topic"]
    left = [without_fold(toy_data, numbers, fold) for fold in range(3)]
    train = toy_data.splits["train"]
    for fold, part in enumerate(left):
        assert part.splits.keys() == {"train", "validation", "test"}
        own = {text for text, number in zip(train.texts, numbers[: len(train)], strict=True) if number == fold}
        assert own
        assert set(part.splits["train"].texts) == set(train.texts) - own
        assert part.splits["validation"] is toy_data.splits["validation"]
        assert part.task is toy_data.task
    kept = np.concatenate([np.asarray(part.splits["train"].labels) for part in left])
    assert len(kept) == 2 * len(train)


@pytest.mark.parametrize(
    ("kind", "labels", "found"),
    [
        ("classification", np.array([0, 0, 0, 1, 0, 1]), ["b"]),
        ("multilabel", np.array([[1, 0], [1, 0], [0, 0], [0, 1], [1, 0], [0, 1]], dtype=np.float32), ["b"]),
        ("regression", np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], dtype=np.float32), []),
    ],
)
def test_labels_that_one_fold_holds_alone_are_named(
    toy_data: TaskData, kind: str, labels: np.ndarray, found: list[str]
) -> None:
    """Catches targets of a teacher that never saw the label of the rows it answers, unsaid."""
    names = () if kind == "regression" else ("a", "b")
    task = TaskSpec(name="topic", type=kind, labels=names)  # type: ignore[arg-type]
    train = Split([(f"text {row}",) for row in range(6)], labels)
    data = replace(toy_data, task=task, splits={"train": train})
    assert labels_in_one_fold(data, np.array([0, 1, 0, 1, 1, 1])) == found


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_every_type_of_task_can_be_cut(toy_data: TaskData, kind: str) -> None:
    """Catches folds that exist for classes alone."""
    rng = np.random.default_rng(0)
    labels = (
        rng.random(30).astype(np.float32) if kind == "regression" else rng.integers(0, 2, (30, 2)).astype("float32")
    )
    task = TaskSpec(name="t", type=kind, labels=() if kind == "regression" else ("a", "b"))  # type: ignore[arg-type]
    data = replace(toy_data, task=task, splits={"train": Split([(f"text {row}",) for row in range(30)], labels)})
    counts = np.bincount(fold_numbers({"t": data}, 3)["t"])
    assert counts.tolist() == [10, 10, 10]
