"""Which columns are read, which rows are kept, and what counts as a text."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from compressor.data.columns import choose_label_column, choose_text_columns, filter_rows, read_texts
from compressor.data.table import Table
from serving.errors import UserError


def table(**columns: list[object]) -> Table:
    frame = pd.DataFrame(columns)
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return Table(frame, "rows.csv", "line")


def test_columns_are_found_by_their_usual_names() -> None:
    """A pair read as its first half is a task that cannot be learned, with no error."""
    assert choose_text_columns(table(text=["a"], text_a=["b"]), None) == ("text",)
    assert choose_text_columns(table(premise=["a"], hypothesis=["b"]), None) == ("premise", "hypothesis")
    assert choose_text_columns(table(q=["a"], r=["b"]), ["r", "q"]) == ("r", "q")
    assert choose_label_column(table(label=[1]), None) == "label"
    assert choose_label_column(table(label=[1], intent=[2]), "intent") == "intent"


def test_missing_columns_are_told_with_those_that_are_there() -> None:
    """Without the list the user opens the file to find out."""
    with pytest.raises(UserError, match=r"rows\.csv has no column 'txet'\. It has: text, intent"):
        choose_text_columns(table(text=["a"], intent=["b"]), "txet")
    with pytest.raises(UserError, match=r"no column 'label'\. Set 'label' to one of: text, intent"):
        choose_label_column(table(text=["a"], intent=["b"]), None)
    with pytest.raises(UserError, match=r"Set 'text' to one or two of: message, intent"):
        choose_text_columns(table(message=["a"], intent=["b"]), None)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"kind": "x"}, [1, 3]),
        ({"kind": ["x", "y"]}, [1, 2, 3]),
        ({"year": 2024}, [1, 2]),
        ({"year": "2024", "kind": "x"}, []),
        ({"written": 7}, [2]),
    ],
)
def test_where_keeps_matching_rows(where: dict[str, object], kept: list[int]) -> None:
    """A yaml number that never equals a csv string would filter all away; all columns must hold."""
    rows = table(kind=["x", "y", "x"], year=[2024, 2024, 1999], written=["6", "7", "8"])
    if kept:
        assert filter_rows(rows, where).frame.index.tolist() == kept
    else:
        with pytest.raises(UserError, match="'where' leaves no row: 'year' is never 2024"):
            filter_rows(rows, where)


def test_where_without_rows_shows_the_values_that_exist() -> None:
    """A mistyped value must not end as an empty training set."""
    with pytest.raises(UserError, match=r"'kind' is never bnak\. Its values are: bank, shop"):
        filter_rows(table(kind=["bank", "shop"]), {"kind": "bnak"})
    with pytest.raises(UserError, match=r"has no column 'knid'\. It has: kind"):
        filter_rows(table(kind=["bank"]), {"knid": "bank"})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", " \n", ""], r"rows\.csv, lines 2, 3: 'text' holds no text \(2 of 3 lines\)"),
        (["a", None], r"line 2: 'text' holds no text"),
        (["a", float("nan")], r"line 2: 'text' holds no text"),
        (["1", "2.5"], r"the text column 'text' holds numbers only, like '1'"),
        ([1, 2], r"lines 1, 2: 'text' holds .*1.*, expected text"),
        (["a", ["b"]], r"line 2: 'text' holds \['b'\], expected text"),
    ],
)
def test_what_is_no_text_is_named_by_its_line(texts: list[object], message: str) -> None:
    """An empty text or a column of ids trains a model that is confident about nothing."""
    with pytest.raises(UserError, match=message):
        read_texts(table(text=texts, label=["x"] * len(texts)), ("text",))


def test_numbers_among_texts_are_texts() -> None:
    """Only a whole column of numbers is a mistake: '42' can be an answer."""
    assert read_texts(table(a=["42", "b"], b=["c", "d"]), ("b", "a")) == [("c", "42"), ("d", "b")]


def test_many_bad_rows_are_counted_not_listed() -> None:
    """A message of ten thousand line numbers is no message."""
    rows = table(text=["x"] * 50)
    assert rows.where_is(np.ones(50, dtype=bool)) == "lines 1, 2, 3 and 47 more"
