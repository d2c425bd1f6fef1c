"""From a label column to a task type, label names in a stable order, and arrays.

The type, where a recipe leaves it out: lists are multilabel; numbers of which any has a fraction are
regression; everything else is classification. Numbers written as strings count too: csv knows no others.

The order of the names: as a hub data set declares them; else whole numbers by value; else by the alphabet.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from compressor.data.table import Table, shown
from serving.errors import UserError
from serving.manifest import TaskType

SEPARATOR = "|"
"""Between the labels of one row, where a file can hold strings only."""

_LABELS_NAMED = 5


def infer_type(table: Table, column: str) -> TaskType:
    """The task type that a label column looks like."""
    values = table.frame[column].dropna()
    if values.map(_is_list).any():
        return "multilabel"
    if values.map(lambda value: isinstance(value, bool)).any():
        return "classification"
    numbers = pd.to_numeric(values, errors="coerce")
    has_fraction = numbers.notna() & (numbers % 1 != 0)
    if not has_fraction.any():
        return "classification"
    if numbers.isna().any():
        score, other = values[has_fraction].iloc[0], values[numbers.isna()].iloc[0]
        raise UserError(
            f"{table.place}: '{column}' holds numbers like {shown(score)} but also {shown(other)}. "
            "Mend those rows, or set type: regression or classification."
        )
    return "regression"


def read_labels(table: Table, column: str, task_type: TaskType) -> list[Any]:
    """Every row's label: a name (classification), a tuple of names (multilabel) or a number (regression).

    Raises:
        UserError: missing labels, labels of another kind, numbers that are not finite.
    """
    values = table.frame[column]
    missing = values.map(lambda value: _is_missing(value, blank_counts=task_type != "multilabel"))
    if missing.any():
        raise UserError(
            f"{table.place}, {table.where_is(missing)}: '{column}' holds no label ({missing.sum()} of "
            f"{len(values)} {table.unit}s). Fill them in or remove them."
        )
    if task_type == "regression":
        return _read_numbers(table, column)
    if task_type == "multilabel":
        return [tuple(_name(item) for item in _items(value, table, column)) for value in values]
    lists = values.map(_is_list)
    if lists.any():
        raise UserError(
            f"{table.place}, {table.where_is(lists)}: '{column}' holds a list of labels, expected one label. "
            "Set type: multilabel."
        )
    return [_name(value) for value in values]


def order_names(names: Iterable[str], declared: Sequence[str] = ()) -> tuple[str, ...]:
    """Label names in the order of the logits."""
    known = set(names)
    if known <= set(declared):
        return tuple(name for name in declared if name in known)
    if all(name.removeprefix("-").isdecimal() for name in known):
        return tuple(sorted(known, key=lambda name: (int(name), name)))
    return tuple(sorted(known))


def names_of(labels: Iterable[Any], task_type: TaskType) -> set[str]:
    """The names that occur in the labels of a split; none for regression."""
    if task_type == "regression":
        return set()
    if task_type == "classification":
        return set(labels)
    return {name for row in labels for name in row}


def encode(labels: Sequence[Any], names: Sequence[str], task_type: TaskType) -> np.ndarray:
    """Labels as a split holds them; see `compressor.data.splits.Split`."""
    if task_type == "regression":
        return np.asarray(labels, dtype=np.float32)
    position: Mapping[str, int] = {name: i for i, name in enumerate(names)}
    if task_type == "classification":
        return np.array([position[name] for name in labels], dtype=np.int64)
    matrix = np.zeros((len(labels), len(names)), dtype=np.float32)
    for row, present in enumerate(labels):
        matrix[row, [position[name] for name in present]] = 1
    return matrix


def check_variety(labels: Sequence[Any], place: str, column: str) -> None:
    """UserError if all rows have the same label: there is nothing to learn."""
    if len({label if not isinstance(label, tuple) else frozenset(label) for label in labels}) < 2:
        raise UserError(
            f"{place}: every row has the same '{column}', {labels[0]!r}. "
            "Expected at least two; check 'label' and 'where'."
        )


def check_seen(
    names: Iterable[str],
    known: Sequence[str],
    place: str,
    *,
    remedy: str = "Add such rows to train, or take these rows out.",
) -> None:
    """UserError if a split has labels that train does not have."""
    unseen = order_names(set(names) - set(known))
    if unseen:
        listed = ", ".join(f"'{name}'" for name in unseen[:_LABELS_NAMED])
        more = f" and {len(unseen) - _LABELS_NAMED} more" if len(unseen) > _LABELS_NAMED else ""
        nearest = difflib.get_close_matches(unseen[0], known, n=1, cutoff=0.7)
        hint = f" ('{unseen[0]}' is close to '{nearest[0]}')" if nearest else ""
        raise UserError(
            f"{place}: no train row has the label{'s' if len(unseen) > 1 else ''} {listed}{more}{hint}. {remedy}"
        )


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _is_missing(value: Any, *, blank_counts: bool) -> bool:
    """None and NaN, also written as a string; a blank string except where it means 'no label applies'."""
    if isinstance(value, str):
        return value.strip().lower() == "nan" or (blank_counts and not value.strip())
    return not _is_list(value) and bool(pd.isna(value))


def _name(value: object) -> str:
    """A label's name: whole numbers without a fraction, truth values in lower case."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _items(value: Any, table: Table, column: str) -> Sequence[object]:
    if _is_list(value):
        return list(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(SEPARATOR) if part.strip()]
    raise UserError(
        f"{table.place}: '{column}' holds {shown(value)}, expected a list of labels, or a string of labels "
        f"separated by '{SEPARATOR}'."
    )


def _read_numbers(table: Table, column: str) -> list[float]:
    values = table.frame[column]
    numbers = pd.to_numeric(values.where(~values.map(_is_list), None), errors="coerce")
    wrong = ~np.isfinite(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
    if wrong.any():
        example = values.iloc[int(np.flatnonzero(wrong)[0])]
        raise UserError(
            f"{table.place}, {table.where_is(wrong)}: '{column}' holds {shown(example)}, expected a finite "
            "number. Mend these rows, or set type: classification."
        )
    return [float(number) for number in numbers]
