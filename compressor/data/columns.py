"""From a table's columns to texts: which columns to read, which rows to keep, and what a text may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from compressor.data.table import Table, shown
from serving.errors import UserError

TEXT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("text",),
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("sentence",),
)
LABEL_COLUMNS = ("label", "labels")
_VALUES_NAMED = 10


def choose_text_columns(table: Table, wanted: str | Sequence[str] | None) -> tuple[str, ...]:
    """The text column, or two for pairs: those asked for, or the first of `TEXT_COLUMNS` that is there."""
    if wanted is not None:
        columns = (wanted,) if isinstance(wanted, str) else tuple(wanted)
        require_columns(table, columns)
        return columns
    for columns in TEXT_COLUMNS:
        if set(columns) <= set(table.frame.columns):
            return columns
    raise UserError(
        f"{table.place} has no column 'text' and no known pair of columns. "
        f"Set 'text' to one or two of: {_columns(table)}."
    )


def choose_label_column(table: Table, wanted: str | None) -> str:
    """The label column: the one asked for, or the first of `LABEL_COLUMNS` that is there."""
    if wanted is not None:
        require_columns(table, (wanted,))
        return wanted
    for column in LABEL_COLUMNS:
        if column in table.frame:
            return column
    raise UserError(f"{table.place} has no column 'label'. Set 'label' to one of: {_columns(table)}.")


def require_columns(table: Table, columns: Sequence[str]) -> None:
    """UserError with the columns that are there, if one is missing."""
    for column in columns:
        if column not in table.frame:
            raise UserError(f"{table.place} has no column '{column}'. It has: {_columns(table)}.")


def _columns(table: Table) -> str:
    return ", ".join(map(str, table.frame.columns))


def filter_rows(table: Table, where: Mapping[str, object]) -> Table:
    """The rows whose columns have the wanted values (one value, or one of a list)."""
    for column, wanted in where.items():
        require_columns(table, (column,))
        kept = table.keep(_matches(table.frame[column], wanted))
        if not len(kept):
            values = pd.unique(table.frame[column].dropna())
            more = ", ..." if len(values) > _VALUES_NAMED else ""
            listed = ", ".join(map(str, values[:_VALUES_NAMED])) + more
            raise UserError(
                f"{table.place}: 'where' leaves no row: '{column}' is never {wanted}. Its values are: {listed}."
            )
        table = kept
    return table


def _matches(values: pd.Series, wanted: object) -> pd.Series:
    """Rows that equal one of the wanted values; files of strings are compared as strings."""
    choices = wanted if isinstance(wanted, list) else [wanted]
    if pd.api.types.is_string_dtype(values):
        return values.isin([str(choice) for choice in choices])
    return values.isin(choices)


def read_texts(table: Table, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts of every row; UserError for numbers, missing texts and blank ones."""
    require_columns(table, columns)
    texts = [_read_column(table, column) for column in columns]
    return list(zip(*texts, strict=True))


def _read_column(table: Table, column: str) -> list[str]:
    values = table.frame[column]
    missing = values.isna()
    blank = missing | values.map(lambda value: isinstance(value, str) and not value.strip())
    if blank.any():
        raise UserError(
            f"{table.place}, {table.where_is(blank)}: '{column}' holds no text ({blank.sum()} of "
            f"{len(values)} {table.unit}s). Fill them in or remove them."
        )
    strings = values.map(lambda value: isinstance(value, str))
    if not strings.all():
        row = int(np.flatnonzero(~strings)[0])
        raise UserError(
            f"{table.place}, {table.where_is(~strings)}: '{column}' holds {shown(values.iloc[row])}, "
            f"expected text. Set 'text' to another column of: {_columns(table)}."
        )
    if pd.to_numeric(values, errors="coerce").notna().all():
        raise UserError(
            f"{table.place}: the text column '{column}' holds numbers only, like {shown(values.iloc[0])}. "
            f"Set 'text' to another column of: {_columns(table)}."
        )
    return [str(value) for value in values]
