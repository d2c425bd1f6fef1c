"""Tables from files: csv, tsv, jsonl and parquet; plain texts from txt.

Text files are read by the standard library, line by line, so that an error can name the line; pandas would
guess types, take 'NA' for a missing value and cut rows that are too long.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from compressor.data.table import Table
from serving.errors import UserError

Content = TypeVar("Content")


def read_table(path: Path) -> Table:
    """Read a table by the file's ending; UserError names the line of what cannot be read."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: files of type '{path.suffix}' are not read. Use one of: {', '.join(READERS)}")
    table = _opened(reader, path)
    if not len(table):
        raise UserError(f"{path} holds no rows. Give a file with at least one.")
    return table


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold more than blanks."""
    lines = [line for line in _opened(_decoded, path).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no texts. Give a file with one text per line.")
    return lines


def _opened(reader: Callable[[Path], Content], path: Path) -> Content:
    try:
        return reader(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}. Check the path and rights.") from error


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8. Save the file as UTF-8."
        ) from error


def _read_csv(path: Path) -> Table:
    return _read_separated(path, ",")


def _read_tsv(path: Path) -> Table:
    return _read_separated(path, "\t")


def _read_separated(path: Path, delimiter: str) -> Table:
    """Rows of strings under a header; quoted fields may hold line breaks."""
    reader = csv.reader(io.StringIO(_decoded(path), newline=""), delimiter=delimiter, strict=True)
    lines: list[int] = []
    rows: list[list[str]] = []
    line = 1
    try:
        header = next(reader, [])
        line = reader.line_num + 1
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"{path}, line {line}: {len(row)} fields, expected {len(header)} as in the first line. "
                    "Put fields that hold the separator in double quotes."
                )
            if row:
                lines.append(line)
                rows.append(row)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}. Check the double quotes of that row.") from error
    return Table(pd.DataFrame(rows, index=lines, columns=header, dtype="str"), str(path), "line")


def _read_jsonl(path: Path) -> Table:
    lines: list[int] = []
    records: list[dict[str, object]] = []
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if line.strip():
            lines.append(number)
            records.append(_record(line, f"{path}, line {number}"))
    return Table(pd.DataFrame(records, index=lines), str(path), "line")


def _record(line: str, place: str) -> dict[str, object]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}: not JSON ({error.msg} at column {error.colno}). Write one JSON object per line."
        ) from error
    if not isinstance(record, dict):
        raise UserError(f"{place}: expected a JSON object with the columns as keys, got {line.strip()[:40]}")
    return record


def _read_parquet(path: Path) -> Table:
    try:
        frame = pq.read_table(path).to_pandas(ignore_metadata=True)
    except pa.ArrowException as error:
        raise UserError(f"{path} is not a parquet file: {error}. Write it again.") from error
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return Table(frame, str(path))


READERS: Mapping[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
