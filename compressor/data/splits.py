"""The rows a task is trained and judged on, in memory and on disk.

On disk a task is a folder: `data.json` (the task, notices, counts, sources) and one parquet file per split
with the columns `text_0`, `text_1` (pairs only) and `label` (absent where there are no labels).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serving.manifest import TaskSpec

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", "unlabelled"
SOURCE, ADDED = "source", "added"
DATA_FILE = "data.json"


@dataclass(frozen=True)
class Split:
    """Texts and their labels, row by row.

    Attributes:
        texts: one string per row, or two for text pairs.
        labels: classification int64 [rows]; multilabel float32 [rows, labels]; regression float32 [rows] in
            the user's own units; None for texts without labels.
    """

    texts: list[tuple[str, ...]]
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts have {len(self.labels)} labels; the numbers must be equal")

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, rows: np.ndarray) -> Split:
        """The rows of a boolean mask [rows] or of integer positions, in that order."""
        positions = np.flatnonzero(rows) if rows.dtype == bool else rows
        labels = None if self.labels is None else self.labels[positions]
        return Split([self.texts[row] for row in positions.tolist()], labels)


def concatenated(first: Split, second: Split) -> Split:
    """The rows of two splits that both have labels."""
    if first.labels is None or second.labels is None:
        raise ValueError("only rows with labels can be joined")
    return Split(first.texts + second.texts, np.concatenate([first.labels, second.labels]))


def with_range_of(task: TaskSpec, rows: Split) -> TaskSpec:
    """A regression's task with the range of some rows' labels; other tasks as they are."""
    if task.type != "regression":
        return task
    labels = np.asarray(rows.labels)
    return msgspec.structs.replace(task, range=(float(labels.min()), float(labels.max())))


@dataclass(frozen=True)
class TaskData:
    """One task with all its rows, ready for training.

    Attributes:
        task: what is asked and how logits are read.
        splits: train, validation and test, unlabelled where the recipe names such texts, and source where it names
            labelled rows of another domain. While a student trains, added: texts that its method gives it.
        text_columns: the columns that the texts came from.
        notices: what the user should know, one sentence each (carved splits, dropped rows, duplicates).
        dropped: per split, the number of rows left out because their text occurs in an evaluation split.
        sources: where the rows came from, for the report.
    """

    task: TaskSpec
    splits: dict[str, Split]
    text_columns: tuple[str, ...]
    notices: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)

    @property
    def is_pair(self) -> bool:
        """Whether every row has two texts."""
        return len(self.text_columns) == 2

    def without_unlabelled(self) -> TaskData:
        """The task without its texts that have no label."""
        return replace(self, splits={name: split for name, split in self.splits.items() if name != UNLABELLED})


def training_texts(data: TaskData) -> list[tuple[str, ...]]:
    """The texts a student reads: the train rows, then the unlabelled ones, then those that were added.

    Tokens, cached teacher logits and labels of a task are all aligned to this order. Source rows are not among them.
    """
    return [text for split in training_splits(data) for text in split.texts]


def training_splits(data: TaskData) -> list[Split]:
    """What a student reads, in the order of `training_texts`; train is the first."""
    return [data.splits[name] for name in (TRAIN, UNLABELLED, ADDED) if name in data.splits]


def num_added(data: TaskData) -> int:
    """How many of `training_texts`, at their end, are added ones."""
    return len(data.splits[ADDED]) if ADDED in data.splits else 0


def save_task_data(folder: Path, data: TaskData) -> None:
    """Write a task into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in data.splits.items():
        pq.write_table(_to_table(split), folder / f"{name}.parquet")
    description = {
        "task": data.task,
        "splits": list(data.splits),
        "text_columns": data.text_columns,
        "notices": data.notices,
        "dropped": data.dropped,
        "sources": data.sources,
    }
    encoded = msgspec.json.format(msgspec.json.encode(description), indent=2)
    (folder / DATA_FILE).write_bytes(encoded + b"\n")


def load_task_data(folder: Path) -> TaskData:
    """Read what `save_task_data` wrote."""
    description = msgspec.json.decode((folder / DATA_FILE).read_bytes())
    task = msgspec.convert(description["task"], TaskSpec)
    splits = {name: _from_table(pq.read_table(folder / f"{name}.parquet"), task) for name in description["splits"]}
    return TaskData(
        task=task,
        splits=splits,
        text_columns=tuple(description["text_columns"]),
        notices=description["notices"],
        dropped=description["dropped"],
        sources=description["sources"],
    )


def _to_table(split: Split) -> pa.Table:
    num_texts = len(split.texts[0]) if split.texts else 1
    columns = {f"text_{i}": pa.array([row[i] for row in split.texts], pa.string()) for i in range(num_texts)}
    if split.labels is not None:
        is_matrix = split.labels.ndim == 2
        columns["label"] = pa.array(list(split.labels)) if is_matrix else pa.array(split.labels)
    return pa.table(columns)


def _from_table(table: pa.Table, task: TaskSpec) -> Split:
    columns = [table[name].to_pylist() for name in table.column_names if name.startswith("text_")]
    texts = list(zip(*columns, strict=True))
    if "label" not in table.column_names:
        return Split(texts)
    if task.type != "multilabel":
        return Split(texts, table["label"].to_numpy())
    matrix = np.array(table["label"].to_pylist(), dtype=np.float32)
    return Split(texts, matrix.reshape(len(texts), len(task.labels)))
