"""What a recipe's `data` may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.data.sources import read_source
from serving.errors import UserError


def test_the_built_in_corpus_has_its_documented_splits() -> None:
    """A file missing from the package, or cut short, would carve or shrink the demo's splits unnoticed."""
    source = read_source("supportdesk")
    assert {name: len(table) for name, table in source.tables.items()} == {
        "train": 1728,
        "validation": 384,
        "test": 768,
    }
    frame = source.tables["train"].frame
    assert list(frame.columns) == ["text", "domain", "intent", "sentiment", "urgency"]
    assert (frame.groupby(["domain", "intent"]).size() == 36).all()
    assert set(source.origin["sha256"]) == {"train.jsonl", "validation.jsonl", "test.jsonl"}


def test_a_file_is_all_train(tmp_path: Path) -> None:
    """A file taken for several splits would be judged on its own training rows."""
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,x\nb,y\n")
    source = read_source(str(path))
    assert list(source.tables) == ["train"]
    assert source.origin["kind"] == "file"


def test_a_folder_takes_splits_by_name_and_says_what_it_leaves(tmp_path: Path) -> None:
    """A second test file that is silently mixed in or left out changes what the figures are of."""
    for name in ("train.csv", "dev.tsv", "test.jsonl", "test_hard.jsonl"):
        content = '{"text": "a"}\n' if name.endswith("jsonl") else "text\na\n"
        (tmp_path / name).write_text(content)
    (tmp_path / "README.md").write_text("x")
    source = read_source(str(tmp_path))
    assert sorted(source.tables) == ["test", "train", "validation"]
    assert len(source.notices) == 1
    assert "test_hard.jsonl is not used" in source.notices[0]


def test_two_files_for_one_split_are_an_error(tmp_path: Path) -> None:
    """Taking either would be a guess."""
    for name in ("train.csv", "dev.csv", "valid.csv"):
        (tmp_path / name).write_text("text\na\n")
    with pytest.raises(UserError, match=r"two files for validation: dev\.csv, valid\.csv"):
        read_source(str(tmp_path))


def test_a_folder_without_train_lists_what_it_holds(tmp_path: Path) -> None:
    """A run on a folder of other things must not begin."""
    (tmp_path / "test.csv").write_text("text\na\n")
    with pytest.raises(UserError, match=r"has no train split.*it holds: test\.csv"):
        read_source(str(tmp_path))


@pytest.mark.parametrize("data", ["rows.csv", "folder/rows.jsonl", "/nowhere/at/all", "suportdesk"])
def test_data_that_is_not_there_never_asks_the_network(data: str) -> None:
    """A mistyped path taken for a hub id would end in a network error, or in another's data set."""
    with pytest.raises(UserError, match=f"no data '{data}'.*supportdesk"):
        read_source(data)


def test_a_mistyped_built_in_name_gets_the_nearest() -> None:
    """One line that mends itself."""
    with pytest.raises(UserError, match=r"Did you mean supportdesk\?"):
        read_source("supportdesc")
