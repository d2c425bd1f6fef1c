"""Reading files: what is written comes back, and what cannot be read is named by file and line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from compressor.data.files import read_lines, read_table
from serving.errors import UserError

ROWS = [("NA", "1"), ("a,b\nc", "2"), ('say "hi"\t', "3"), ("007", "4"), ("null", "5")]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_back_the_texts_written(suffix: str, tmp_path: Path) -> None:
    """Readers that guess types turn 'NA' and 'null' into missing texts and '007' into 7."""
    path = tmp_path / f"rows{suffix}"
    frame = pd.DataFrame(ROWS, columns=["text", "label"])
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="," if suffix == ".csv" else "\t")
    table = read_table(path)
    assert list(zip(table.frame["text"], table.frame["label"], strict=True)) == ROWS


def test_rows_are_numbered_by_the_line_they_begin_in(tmp_path: Path) -> None:
    """A row number sends the reader to another line wherever a field holds line breaks or a line is blank."""
    table = read_table(write(tmp_path / "a.csv", 'text\none\n"two\nlines"\n\nfour\n'))
    assert table.frame.index.tolist() == [2, 3, 6]
    assert table.where_is(table.frame["text"] == "four") == "line 6"
    table = read_table(write(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n'))
    assert table.frame.index.tolist() == [1, 3]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    """Spreadsheets write one; the column 'text' would then be missing with no visible reason."""
    assert list(read_table(write(tmp_path / "a.csv", b"\xef\xbb\xbftext\nhi\n")).frame.columns) == ["text"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\nok,1\ncaf\xe9,2\n", r"a\.csv, line 3: byte 0xe9 is not UTF-8"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a\.jsonl, line 1: byte 0xff is not UTF-8"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2: not JSON \(Expecting value at column"),
        ("a.jsonl", '{"text": "a"}\n["a"]\n', r'a\.jsonl, line 2: expected a JSON object.* got \["a"\]'),
        ("a.csv", "text,label\na,1\nb,c,2\n", r"a\.csv, line 3: 3 fields, expected 2"),
        ("a.csv", "text,label\na,1\nb\n", r"a\.csv, line 3: 1 fields, expected 2"),
        ("a.csv", 'text,label\na,1\n"open,2\nb,3\n', r"a\.csv, line 3: unexpected end of data"),
        ("a.parquet", "no parquet", r"a\.parquet is not a parquet file"),
        ("a.csv", "", r"a\.csv holds no rows"),
        ("a.csv", "text,label\n", r"a\.csv holds no rows"),
        ("a.jsonl", "\n", r"a\.jsonl holds no rows"),
        (
            "a.xlsx",
            "x",
            r"files of type '\.xlsx' are not read\. Use one of: \.csv, \.tsv, \.jsonl, \.parquet",
        ),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    """A traceback of a parser, or rows dropped in silence, leave the user to search the file."""
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_text_lines_without_text_are_left_out(tmp_path: Path) -> None:
    """A trailing line break is not an empty text to distil on."""
    assert read_lines(write(tmp_path / "a.txt", "one\n\n  \ntwo\n")) == ["one", "two"]
    with pytest.raises(UserError, match="holds no texts"):
        read_lines(write(tmp_path / "b.txt", "\n"))
