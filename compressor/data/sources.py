"""Where rows come from: a built-in corpus, a file, a folder of splits, or the hub.

A recipe's `data` is read as the first of these that it is: a built-in name, an existing file or folder, a hub
id. A single file is all train; what is missing is carved from it later.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from compressor.data.builtin import CORPORA
from compressor.data.files import READERS, read_table
from compressor.data.hub import HubId, parse_hub_id, read_hub
from compressor.data.splits import TEST, TRAIN, VALIDATION
from compressor.data.table import Table
from serving.errors import UserError
from serving.hashing import hash_file
from serving.manifest import TaskType

FOLDER_SPLITS: Mapping[str, str] = {
    "train": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
}


class RowSource(Protocol):
    """What a recipe says of one table of labelled rows; `compressor.recipe.SourceSettings` is one."""

    @property
    def data(self) -> str:
        """Built-in name, file, folder of splits or hub id."""

    @property
    def text(self) -> str | Sequence[str] | None:
        """Text column, two for pairs, or None."""

    @property
    def label(self) -> str | None:
        """Label column, or None."""

    @property
    def where(self) -> Mapping[str, object]:
        """Column to the value, or list of values, that rows must have."""


class TaskSource(RowSource, Protocol):
    """What a recipe says of one task's data; `compressor.recipe.TaskSettings` is one.

    Columns that are None are found by name.
    """

    @property
    def unlabelled(self) -> str | None:
        """File of texts without labels."""

    @property
    def source(self) -> RowSource | None:
        """Labelled rows of another domain."""

    @property
    def type(self) -> TaskType | None:
        """Task type, or None: inferred from the labels."""

    @property
    def metric(self) -> str | None:
        """Metric to judge by, or None: the type's default."""

    @property
    def train_rows(self) -> int | None:
        """Labelled training rows to keep, or None: all."""

    @property
    def train_rows_seed(self) -> int:
        """Which rows are kept."""


@dataclass(frozen=True)
class Source:
    """Tables by split, what to tell the user about them, and where they came from (for the report)."""

    tables: dict[str, Table]
    notices: list[str] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)


def read_source(data: str) -> Source:
    """Read what a recipe's `data` names; UserError if it names nothing."""
    if data in CORPORA:
        return _read_folder(CORPORA[data], {"kind": "built-in", "name": data})
    path = Path(data).expanduser()
    if path.is_dir():
        return _read_folder(path, {"kind": "folder", "name": data})
    if path.is_file():
        origin = {"kind": "file", "name": data, "sha256": {path.name: hash_file(path)}}
        return Source({TRAIN: read_table(path)}, origin=origin)
    hub_id = parse_hub_id(data)
    if path.suffix.lower() in READERS or path.is_absolute() or hub_id is None:
        raise UserError(_nothing_there(data))
    return _read_hub(hub_id)


def _nothing_there(data: str) -> str:
    nearest = difflib.get_close_matches(data, CORPORA, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return (
        f"no data '{data}': it is no file or folder here and no built-in corpus ({', '.join(CORPORA)}).{hint}"
        f" Expected one of those or a hub id org/name:config@revision; files end in {', '.join(READERS)}."
    )


def _read_folder(folder: Path, origin: dict[str, Any]) -> Source:
    paths: dict[str, Path] = {}
    notices: list[str] = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in READERS):
        split = FOLDER_SPLITS.get(path.stem.lower())
        if split is None:
            notices.append(f"{path} is not used: splits are files named {', '.join(FOLDER_SPLITS)}")
        elif split in paths:
            raise UserError(f"{folder} has two files for {split}: {paths[split].name}, {path.name}. Keep one of them.")
        else:
            paths[split] = path
    if TRAIN not in paths:
        raise UserError(
            f"the folder {folder} has no train split. Expected train.csv, .tsv, .jsonl or .parquet in it; "
            f"it holds: {', '.join(sorted(p.name for p in folder.iterdir())[:10]) or 'nothing'}."
        )
    tables = {split: read_table(path) for split, path in paths.items()}
    return Source(tables, notices, {**origin, "sha256": {p.name: hash_file(p) for p in paths.values()}})


def _read_hub(hub_id: HubId) -> Source:
    tables, notices = read_hub(hub_id)
    if TRAIN not in tables:
        raise UserError(f"the data set '{hub_id.name}' has no train split. {'; '.join(notices)}")
    origin = {"kind": "hub", "name": hub_id.name, "config": hub_id.config, "revision": hub_id.revision}
    return Source(tables, notices, origin)
