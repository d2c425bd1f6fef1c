"""Texts that a student may read beside its own rows, with where they come from and what the teacher says of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_COLUMNS = ("is_source", "start_rows", "rounds", "edit_ratios", "domain_scores")


@dataclass(frozen=True)
class Candidates:
    """Texts in a fixed order; all arrays are aligned to it.

    Attributes:
        texts: one string per row, or two for pairs.
        starts: the text that each one was made from; the text itself where nothing was changed.
        is_source: whether that is a source text, bool [rows].
        start_rows: its row in the train or source split, int64 [rows].
        rounds: of mask and refill, int64 [rows].
        edit_ratios: share of words that were changed, in [0, 1], float32 [rows].
        domain_scores: how likely the text is the target's, in [0, 1], float32 [rows]; NaN where there is no source.
        logits: the teacher's, float32 [rows, outputs]; None before it is asked.
    """

    texts: list[tuple[str, ...]]
    starts: list[tuple[str, ...]]
    is_source: np.ndarray
    start_rows: np.ndarray
    rounds: np.ndarray
    edit_ratios: np.ndarray
    domain_scores: np.ndarray
    logits: np.ndarray | None = None

    def __post_init__(self) -> None:
        columns = {name: getattr(self, name) for name in (*_COLUMNS, "starts", "logits")}
        wrong = {name: len(column) for name, column in columns.items() if column is not None}
        if any(length != len(self.texts) for length in wrong.values()):
            raise ValueError(f"{len(self.texts)} texts have columns of other lengths: {wrong}")

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, rows: np.ndarray) -> Candidates:
        """The rows of a boolean mask [rows] or of integer positions, in that order."""
        positions = np.flatnonzero(rows) if rows.dtype == bool else rows
        return replace(
            self,
            texts=[self.texts[row] for row in positions.tolist()],
            starts=[self.starts[row] for row in positions.tolist()],
            logits=None if self.logits is None else self.logits[positions],
            **{name: getattr(self, name)[positions] for name in _COLUMNS},
        )


def joined(parts: list[Candidates]) -> Candidates:
    """Candidates one behind the other; at least one part, all with logits or none."""
    answered = [part.logits for part in parts if part.logits is not None]
    if answered and len(answered) < len(parts):
        raise ValueError("some parts have the teacher's logits and others have not")
    return Candidates(
        texts=[text for part in parts for text in part.texts],
        starts=[text for part in parts for text in part.starts],
        logits=np.concatenate(answered) if answered else None,
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS},
    )


def save_candidates(path: Path, candidates: Candidates, *, num_sides: int) -> None:
    """Write a parquet file, whole or not at all; `num_sides` is 1, or 2 for pairs."""
    columns: dict[str, pa.Array] = {}
    for name in ("texts", "starts"):
        rows = getattr(candidates, name)
        columns |= {f"{name}_{i}": pa.array([row[i] for row in rows], pa.string()) for i in range(num_sides)}
    columns |= {name: pa.array(getattr(candidates, name)) for name in _COLUMNS}
    if candidates.logits is not None:
        columns |= {f"logits_{i}": pa.array(column) for i, column in enumerate(candidates.logits.T)}
    aside = path.with_suffix(".tmp")
    pq.write_table(pa.table(columns), aside)
    aside.replace(path)


def load_candidates(path: Path) -> Candidates:
    """Read what `save_candidates` wrote."""
    table = pq.read_table(path)
    outputs = [name for name in table.column_names if name.startswith("logits_")]
    return Candidates(
        texts=_texts(table, "texts"),
        starts=_texts(table, "starts"),
        logits=np.stack([table[name].to_numpy() for name in outputs], axis=1) if outputs else None,
        **{name: np.array(table[name].to_numpy(zero_copy_only=False)) for name in _COLUMNS},
    )


def _texts(table: pa.Table, name: str) -> list[tuple[str, ...]]:
    columns = [table[column].to_pylist() for column in table.column_names if column.startswith(f"{name}_")]
    return list(zip(*columns, strict=True))
