"""Tables from the hub, through `datasets`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pandas as pd

from compressor.data.splits import TEST, TRAIN, VALIDATION
from compressor.data.table import Table
from serving.errors import UserError

SPLITS: Mapping[str, str] = {
    "train": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "dev": VALIDATION,
    "validation_matched": VALIDATION,
    "test": TEST,
    "test_matched": TEST,
}
_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.+-]+))?(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True)
class HubId:
    """`org/name:config@revision`; config and revision may be left out."""

    name: str
    config: str | None = None
    revision: str | None = None


def parse_hub_id(text: str) -> HubId | None:
    """The parts of a hub id, or None if the text is none."""
    match = _ID.fullmatch(text)
    return HubId(match["name"], match["config"], match["revision"]) if match else None


def read_hub(hub_id: HubId, *, load: Callable[..., Any] = datasets.load_dataset) -> tuple[dict[str, Table], list[str]]:
    """The splits of a hub data set and notices about splits that are not used.

    Args:
        hub_id: what to load. Data sets that need code of their own are refused by `datasets`.
        load: `datasets.load_dataset`, or a stand-in for it.

    Returns:
        Tables by split name (train, validation, test), and one sentence for each split left out.

    Raises:
        UserError: offline, or nothing there by this name, config or revision.
    """
    try:
        loaded = load(hub_id.name, name=hub_id.config, revision=hub_id.revision)
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise UserError(
            f"no file or folder '{hub_id.name}' is here, and the hub did not give such a data set: {cause}. "
            "Check its name, config and revision and the network, or give a local file or folder."
        ) from error
    tables: dict[str, Table] = {}
    notices: list[str] = []
    for name, rows in loaded.items():
        table = _to_table(rows, f"{hub_id.name} ({name})")
        reason = _unused(name, table, tables)
        if reason:
            notices.append(f"split '{name}' of {hub_id.name} is not used: {reason}")
        else:
            tables[SPLITS[name]] = table
    return tables, notices


def _unused(name: str, table: Table, tables: Mapping[str, Table]) -> str | None:
    """Why a split is left out, if it is: its name, a second one of its kind, or labels hidden behind -1."""
    if name not in SPLITS:
        return f"splits are taken by the names {', '.join(SPLITS)}"
    if SPLITS[name] in tables:
        return f"there is another {SPLITS[name]} split"
    if "label" in table.frame and table.frame["label"].isin([-1]).all():
        return "it has no labels (all are -1)"
    return None


def _to_table(rows: datasets.Dataset, place: str) -> Table:
    frame = rows.to_pandas()
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    label_names: dict[str, tuple[str, ...]] = {}
    for column, feature in rows.features.items():
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names and not (frame[column].isin([-1]).all()):
            label_names[column] = tuple(names)
            frame[column] = frame[column].map(lambda value, names=names: _named(value, names))
    return Table(frame, place, label_names=label_names)


def _named(value: Any, names: list[str]) -> Any:
    """A class number, or several, as names; -1 (no label) becomes None."""
    if isinstance(value, int | np.integer):
        return names[value] if value >= 0 else None
    return [names[number] for number in value]
