"""What the reproductions share: the rows that are drawn, and the block that lands on a page."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.cells import draw_rows, put_block
from serving.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Thirty train rows of label a, twelve of b, sorted by label; ten test rows."""
    folder = tmp_path / "source"
    folder.mkdir()
    labels = {"train": ["a"] * 30 + ["b"] * 12, "test": ["a"] * 10}
    for split, names in labels.items():
        rows = [json.dumps({"text": f"{split} {place}", "label": name}) for place, name in enumerate(names)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_drawn_rows_are_balanced_where_asked_and_drawn_from_all_over(source: Path, tmp_path: Path) -> None:
    """Catches the first rows of a sorted file, and a test split whose label proportions were changed."""
    target = draw_rows(source, tmp_path / "drawn", {"train": 20, "test": 4}, balanced_by="label")
    train = rows_of(target / "train.jsonl")
    assert Counter(row["label"] for row in train) == {"a": 10, "b": 10}
    assert len({row["text"] for row in train}) == 20
    assert {row["text"] for row in train if row["label"] == "a"} != {f"train {place}" for place in range(10)}
    assert len(rows_of(target / "test.jsonl")) == 4


def test_a_split_without_a_number_is_copied_whole_and_a_second_call_changes_nothing(
    source: Path, tmp_path: Path
) -> None:
    """Catches cells of one study that were trained on different rows."""
    target = draw_rows(source, tmp_path / "drawn", {"train": None, "test": 99})
    assert (len(rows_of(target / "train.jsonl")), len(rows_of(target / "test.jsonl"))) == (42, 10)
    before = (target / "train.jsonl").read_text()
    draw_rows(source, target, {"train": 1, "test": 1})
    assert (target / "train.jsonl").read_text() == before


def test_rows_that_are_not_there_are_an_error_of_one_line(source: Path, tmp_path: Path) -> None:
    """Catches a study that says 1,500 balanced rows and has fewer of one label."""
    with pytest.raises(UserError, match="one label has 12"):
        draw_rows(source, tmp_path / "drawn", {"train": 40}, balanced_by="label")
    with pytest.raises(UserError, match="--data"):
        draw_rows(source, tmp_path / "other", {"validation": 4})


def test_a_block_replaces_itself_alone_and_is_added_where_it_is_missing(tmp_path: Path) -> None:
    """Catches a second table below the first, and words or other blocks of the page that get lost."""
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nbefore\n<!-- a:begin -->\nold\n<!-- a:end -->\nafter\n")
    put_block(page, "a", "new")
    put_block(page, "b", "other\n")
    put_block(page, "a", "newer")
    assert page.read_text() == (
        "# Results\n\nbefore\n<!-- a:begin -->\nnewer\n<!-- a:end -->\nafter\n"
        "\n<!-- b:begin -->\nother\n<!-- b:end -->\n"
    )
    page.write_text("<!-- a:begin -->\n")
    with pytest.raises(UserError, match="needs one"):
        put_block(page, "a", "new")
