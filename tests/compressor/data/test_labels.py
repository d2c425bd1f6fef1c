"""From label columns to task types, names in order, and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from compressor.data.labels import (
    check_seen,
    check_variety,
    encode,
    infer_type,
    names_of,
    order_names,
    read_labels,
)
from compressor.data.table import Table
from serving.errors import UserError
from serving.manifest import TaskType


def table(labels: list[Any]) -> Table:
    frame = pd.DataFrame({"label": pd.Series(labels)})
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return Table(frame, "rows.jsonl", "line")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["pos", "neg"], "classification"),
        ([1, 0, 2], "classification"),
        (["1", "0"], "classification"),
        ([1.0, 2.0], "classification"),
        ([True, False], "classification"),
        ([0.5, 1.0], "regression"),
        (["0.5", "1"], "regression"),
        ([1.0, float("inf")], "regression"),
        ([["a"], []], "multilabel"),
        ([np.array(["a"]), np.array([])], "multilabel"),
    ],
)
def test_types_are_inferred_from_the_labels(labels: list[Any], expected: TaskType) -> None:
    """Scores taken for classes train hundreds of them; classes taken for scores train their average."""
    assert infer_type(table(labels), "label") == expected


def test_scores_with_a_word_among_them_are_asked_about() -> None:
    """One 'n/a' would turn a regression into a classification with a class per score."""
    with pytest.raises(UserError, match=r"numbers like 3\.5 but also 'n/a'.*set type"):
        infer_type(table([3.5, "n/a", 2]), "label")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "B"], ("B", "a", "b")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        ([10, 9], ("9", "10")),
        ([2.0, 1.0], ("1", "2")),
        ([True, False], ("false", "true")),
    ],
)
def test_names_have_a_stable_order(labels: list[Any], names: tuple[str, ...]) -> None:
    """The order of a set changes from run to run: a resumed head would answer with other names."""
    read = read_labels(table(labels), "label", "classification")
    assert order_names(names_of(read, "classification")) == names
    assert encode(read, names, "classification").tolist() == [names.index(name) for name in read]
    assert encode(read, names, "classification").dtype == np.int64


def test_declared_names_keep_their_order() -> None:
    """A hub model of the same data has its classes in the declared order."""
    assert order_names({"world", "business"}, ("world", "sport", "business")) == ("world", "business")
    assert order_names({"world", "arts"}, ("world", "sport")) == ("arts", "world")


def test_multilabel_reads_lists_and_separated_strings() -> None:
    """Csv knows no lists; a row without any label is a row, not a missing one."""
    for labels in ([["b", "a"], [], ["b"]], ["b | a", "", "b"]):
        read = read_labels(table(labels), "label", "multilabel")
        matrix = encode(read, ("a", "b"), "multilabel")
        assert matrix.tolist() == [[1, 1], [0, 0], [0, 1]]
        assert matrix.dtype == np.float32


def test_regression_keeps_the_users_units() -> None:
    """Scaling twice, here and in the loss, would flatten every label."""
    assert encode(read_labels(table(["1.5", "40"]), "label", "regression"), (), "regression").tolist() == [
        1.5,
        40,
    ]


@pytest.mark.parametrize(
    ("labels", "task_type", "message"),
    [
        (["a", None], "classification", r"rows\.jsonl, line 2: 'label' holds no label \(1 of 2 lines\)"),
        (["a", float("nan")], "classification", "line 2: 'label' holds no label"),
        (["a", ""], "classification", "line 2: 'label' holds no label"),
        (["a", "NaN"], "classification", "line 2: 'label' holds no label"),
        ([1.5, float("nan")], "regression", "line 2: 'label' holds no label"),
        ([["a"], None], "multilabel", "line 2: 'label' holds no label"),
        ([1.5, "high"], "regression", r"line 2: 'label' holds 'high', expected a finite number"),
        ([1.5, float("-inf")], "regression", r"line 2: 'label' holds -inf, expected a finite number"),
        ([1.5, [2.5]], "regression", r"line 2: 'label' holds \[2\.5\], expected a finite number"),
        (["a", ["b"]], "classification", r"line 2: 'label' holds a list of labels.*Set type: multilabel"),
        ([3, 4], "multilabel", "holds 3, expected a list of labels"),
    ],
)
def test_what_is_no_label_is_named_by_its_line(labels: list[Any], task_type: TaskType, message: str) -> None:
    """NaN becomes a class of its own in most tools, and a NaN loss in the others."""
    with pytest.raises(UserError, match=message):
        read_labels(table(labels), "label", task_type)


def test_one_class_only_is_refused() -> None:
    """A model of one class is right always and useless."""
    with pytest.raises(UserError, match="every row has the same 'label', 'a'"):
        check_variety(["a", "a"], "rows.csv", "label")
    with pytest.raises(UserError, match="every row has the same"):
        check_variety([("a", "b"), ("b", "a")], "rows.csv", "label")
    check_variety([("a",), ()], "rows.csv", "label")


def test_labels_that_train_never_saw_are_named() -> None:
    """They can only be answered wrongly: usually a typing mistake in one of the files."""
    with pytest.raises(
        UserError, match=r"test\.csv: no train row has the label 'refnd' \('refnd' is close to 'refund'\)"
    ):
        check_seen({"refnd", "refund"}, ("refund", "other"), "test.csv")
    with pytest.raises(UserError, match="labels '0', '1', '2', '3', '4' and 2 more"):
        check_seen(map(str, range(7)), ("a",), "test.csv")
