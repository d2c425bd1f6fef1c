"""Candidates come back from disk as they were written, and their columns stay together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from compressor.distillation.augmentation.candidates import Candidates, joined, load_candidates, save_candidates

COLUMNS = ("is_source", "start_rows", "rounds", "edit_ratios", "domain_scores")
ODD = ["plain", 'quotes " and , commas', "line\nbreak\t", "", "äöü 😀 \u00a0"]


def make(number: int, *, sides: int = 1, outputs: int | None = 12, seed: int = 0) -> Candidates:
    generator = np.random.default_rng(seed)
    scores = generator.random(number).astype(np.float32)
    scores[::3] = np.nan
    return Candidates(
        texts=[tuple(f"{ODD[row % 5]}{side}" for side in range(sides)) for row in range(number)],
        starts=[tuple(f"start {ODD[row % 5]}{side}" for side in range(sides)) for row in range(number)],
        is_source=generator.random(number) < 0.5,
        start_rows=generator.integers(0, 2**40, size=number),
        rounds=generator.integers(0, 4, size=number),
        edit_ratios=generator.random(number).astype(np.float32),
        domain_scores=scores,
        logits=None if outputs is None else generator.normal(size=(number, outputs)).astype(np.float32),
    )


def assert_same(found: Candidates, expected: Candidates) -> None:
    assert found.texts == expected.texts
    assert found.starts == expected.starts
    assert (found.logits is None) == (expected.logits is None)
    for name in (*COLUMNS, "logits"):
        one, other = getattr(found, name), getattr(expected, name)
        if other is not None:
            np.testing.assert_array_equal(one, other, err_msg=name)
            assert one.dtype == other.dtype, name


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("outputs", [None, 1, 12])
@pytest.mark.parametrize("number", [0, 7])
def test_candidates_come_back_as_they_were_written(
    sides: int, outputs: int | None, number: int, tmp_path: Path
) -> None:
    """Catches logits in the order 0, 1, 10, 11, 2, NaN read as 0, sides of pairs swapped, and other dtypes."""
    expected = make(number, sides=sides, outputs=outputs)
    save_candidates(tmp_path / "c.parquet", expected, num_sides=sides)
    assert_same(load_candidates(tmp_path / "c.parquet"), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["c.parquet"]


def test_the_same_candidates_are_the_same_bytes(tmp_path: Path) -> None:
    """Catches a time stamp in a file whose bytes a resumed run has to meet."""
    for name in ("one.parquet", "other.parquet"):
        save_candidates(tmp_path / name, make(20), num_sides=1)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches half a file under the name of a whole one."""

    def fail_half_way(_table: object, place: Path) -> None:
        place.write_bytes(b"half")
        raise OSError("the disk is full")

    path = tmp_path / "c.parquet"
    save_candidates(path, make(3), num_sides=1)
    monkeypatch.setattr(pq, "write_table", fail_half_way)
    with pytest.raises(OSError, match="full"):
        save_candidates(path, make(5), num_sides=1)
    assert_same(load_candidates(path), make(3))


@pytest.mark.parametrize(
    "rows", [np.array([True, False, True, False, False]), np.array([0, 2]), np.array([2, 0, 2]), np.zeros(5, bool)]
)
def test_all_columns_are_selected_alike(rows: np.ndarray) -> None:
    """Catches a column that stays behind: texts would get the teacher's answers for others."""
    whole = make(5)
    part = whole.select(rows)
    places = np.flatnonzero(rows) if rows.dtype == bool else rows
    assert part.texts == [whole.texts[place] for place in places]
    assert part.starts == [whole.starts[place] for place in places]
    for name in (*COLUMNS, "logits"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[places], err_msg=name)
    assert make(5, outputs=None).select(rows).logits is None


@pytest.mark.parametrize("outputs", [None, 3])
def test_parts_are_joined_in_order(outputs: int | None) -> None:
    """Catches parts whose columns are joined in another order than their texts."""
    whole = make(8, outputs=outputs)
    assert_same(joined([whole.select(np.arange(3)), whole.select(np.arange(3, 8))]), whole)


def test_parts_with_and_without_logits_are_an_error() -> None:
    """Catches logits that belong to the rows of one part and are read for those of another."""
    with pytest.raises(ValueError, match="some parts have"):
        joined([make(2), make(2, outputs=None)])


@pytest.mark.parametrize("name", [*COLUMNS, "starts", "logits"])
def test_a_column_of_another_length_is_an_error(name: str) -> None:
    """Catches columns that are no longer aligned to the texts."""
    changed: dict[str, Any] = {name: getattr(make(5), name)[:4]}
    with pytest.raises(ValueError, match="other lengths"):
        dataclasses.replace(make(5), **changed)
