"""One task's rows as its source has them: columns chosen, rows filtered, labels read, nothing carved yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.data.columns import choose_label_column, choose_text_columns, filter_rows, read_texts
from compressor.data.files import read_lines, read_table
from compressor.data.labels import (
    check_seen,
    check_variety,
    encode,
    infer_type,
    names_of,
    order_names,
    read_labels,
)
from compressor.data.sources import RowSource, Source, TaskSource, read_source
from compressor.data.splits import SOURCE, TRAIN, UNLABELLED, Split, TaskData
from compressor.data.table import Table
from compressor.tasks.registry import TASKS
from compressor.tasks.task import find_metric
from serving.errors import UserError
from serving.hashing import hash_file
from serving.manifest import TaskSpec, TaskType

_MANY_CLASSES = 50


def load_task(name: str, settings: TaskSource, *, output: str) -> TaskData:
    """Read one task of a recipe.

    Args:
        name: the task's name.
        settings: where its rows are.
        output: name of the graph's output for this task.

    Returns:
        The splits that the data has, train at least, `unlabelled` where the recipe names such texts, and `source`
        where it names one. A regression's range is not known yet: it is that of the rows that stay in train.

    Raises:
        UserError: anything in the data that cannot be right, with file and line or row.
    """
    source = read_source(settings.data)
    tables = {split: filter_rows(table, settings.where) for split, table in source.tables.items()}
    train = tables[TRAIN]
    text_columns = choose_text_columns(train, settings.text)
    label_column = choose_label_column(train, settings.label)
    task_type = settings.type or infer_type(train, label_column)
    metric = find_metric(TASKS[task_type], settings.metric)
    names, splits = _read_splits(tables, text_columns, label_column, task_type)
    if settings.unlabelled is not None:
        splits[UNLABELLED] = Split(_read_unlabelled(Path(settings.unlabelled).expanduser(), text_columns))
    if settings.source is not None:
        splits[SOURCE] = _read_labelled(settings.source, text_columns, label_column, names, task_type)
    return TaskData(
        task=TaskSpec(name=name, type=task_type, labels=names, metric=metric, output=output),
        splits=splits,
        text_columns=text_columns,
        notices=source.notices + _notices(settings, label_column, names, task_type),
        sources=_sources(source, settings, label_column),
    )


def _read_splits(
    tables: Mapping[str, Table], text_columns: Sequence[str], label_column: str, task_type: TaskType
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The label names, those of train, and every split with its labels encoded by them."""
    texts = {split: read_texts(table, text_columns) for split, table in tables.items()}
    labels = {split: _labels_of(table, label_column, task_type) for split, table in tables.items()}
    declared = tables[TRAIN].label_names.get(label_column, ())
    names = order_names(names_of(labels[TRAIN], task_type), declared)
    check_variety(labels[TRAIN], tables[TRAIN].place, label_column)
    for split, table in tables.items():
        check_seen(names_of(labels[split], task_type), names, table.place)
    return names, {split: Split(texts[split], encode(labels[split], names, task_type)) for split in tables}


def _labels_of(table: Table, column: str, task_type: TaskType) -> list[Any]:
    return read_labels(table, choose_label_column(table, column), task_type)


def _read_unlabelled(path: Path, text_columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Texts from a file: one per line of a .txt, or the task's text columns of a table."""
    if not path.is_file():
        raise UserError(f"no file '{path}' of unlabelled texts. Give a .txt, .csv, .tsv, .jsonl or .parquet.")
    if path.suffix.lower() != ".txt":
        return read_texts(read_table(path), text_columns)
    if len(text_columns) == 2:
        raise UserError(
            f"{path} has one text per line, but the task reads pairs. Give a table with the columns "
            f"{text_columns[0]} and {text_columns[1]}."
        )
    return [(line.strip(),) for line in read_lines(path)]


def _read_labelled(
    settings: RowSource, text_columns: Sequence[str], label_column: str, names: Sequence[str], task_type: TaskType
) -> Split:
    """The train rows of a task's source, their columns named as the task's where it says nothing else."""
    table = filter_rows(read_source(settings.data).tables[TRAIN], settings.where)
    wanted = settings.text or (text_columns if all(name in table.frame.columns for name in text_columns) else None)
    columns = choose_text_columns(table, wanted)
    if len(columns) != len(text_columns):
        raise UserError(
            f"{table.place}: the task's rows have {len(text_columns)} texts, those of its source {len(columns)}. "
            "Set source.text to as many columns."
        )
    own = settings.label or (label_column if label_column in table.frame.columns else None)
    labels = _labels_of(table, choose_label_column(table, own), task_type)
    remedy = "A source has the task's labels: leave other rows out with source.where."
    check_seen(names_of(labels, task_type), names, f"the source {table.place}", remedy=remedy)
    return Split(read_texts(table, columns), encode(labels, names, task_type))


def _notices(settings: TaskSource, column: str, names: Sequence[str], task_type: TaskType) -> list[str]:
    is_doubtful = len(names) > _MANY_CLASSES and all(name.removeprefix("-").isdecimal() for name in names)
    if settings.type is None and task_type == "classification" and is_doubtful:
        return [
            f"'{column}' holds {len(names)} different whole numbers and is taken for classes; "
            "if it is a score, set type: regression"
        ]
    return []


def _sources(source: Source, settings: TaskSource, label_column: str) -> dict[str, Any]:
    described = {**source.origin, "label_column": label_column, "where": dict(settings.where)}
    if settings.unlabelled is not None:
        path = Path(settings.unlabelled).expanduser()
        described["unlabelled"] = {"name": settings.unlabelled, "sha256": hash_file(path)}
    if settings.source is not None:
        described["source"] = {"name": settings.source.data, "where": dict(settings.source.where)}
    return described
