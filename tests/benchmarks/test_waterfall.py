"""The waterfall's script: random models that are only fast or slow, and a page that says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.waterfall import CORPUS, SMALL_STUDENT, SMALL_TEACHER, random_waterfall, read_texts
from compressor.pipeline import waterfall
from compressor.report.waterfall import steps_table
from export.limits import Peaks


def test_random_models_give_a_whole_waterfall(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shape that cannot be exported shows only after the demo has been trained."""
    peaks = Peaks(threads=1, fp32=1e11, int8=2e11, read_bytes=1e10, cache_bytes=2**25)
    monkeypatch.setattr(waterfall, "measure_peaks", lambda threads: peaks)
    texts = read_texts(CORPUS, 16)

    found = random_waterfall(tmp_path, SMALL_TEACHER, SMALL_STUDENT, texts=texts, tokenizer=str(checkpoint()))

    assert len(texts) == found["texts"] == 16
    assert [step["name"] for step in found["steps"]][:5] == ["padded", "torch", "student", "fp32", "int8"]
    table = steps_table(found)
    assert table is not None
    assert len(table.rows) == len(found["steps"])


@pytest.mark.parametrize("number", [1, 7, 64])
def test_texts_are_spread_over_the_file(number: int) -> None:
    """The first lines of a sorted file are the texts of one class."""
    texts = read_texts(CORPUS, number)

    assert len(texts) == number
    assert len(set(texts)) == number
