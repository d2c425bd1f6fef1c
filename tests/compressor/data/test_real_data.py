"""The published data sets, where they lie beside the project: what their owners' pages do not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.data.prepare import prepare
from compressor.recipe import TaskSettings

SHARED = Path(__file__).parents[4] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not beside this checkout")


def test_banking77s_leaked_test_texts_are_found_dropped_and_counted() -> None:
    """Catches a leakage filter that misses what the set is known for: 25 test texts stand in train too."""
    data = prepare({"intent": TaskSettings(data=str(SHARED / "banking77"), label="label")})["intent"]
    assert data.dropped["train"] + data.dropped["validation"] == 25
    assert any("25 train rows were dropped: their text is also in test" in notice for notice in data.notices)
    assert any("there was no validation split" in notice for notice in data.notices)
    assert len(data.splits["test"]) == 3080


def test_a_pair_task_and_a_regression_are_read_as_they_are() -> None:
    """Catches pairs read as single texts, and similarity scores read as classes."""
    mrpc = prepare({"same": TaskSettings(data=str(SHARED / "mrpc"))})["same"]
    assert mrpc.is_pair
    assert mrpc.task.type == "classification"
    sts = prepare({"similarity": TaskSettings(data=str(SHARED / "sts"))})["similarity"]
    assert sts.task.type == "regression"
    assert sts.task.range == (0.0, 5.0)
