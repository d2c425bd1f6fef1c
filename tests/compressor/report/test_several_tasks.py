"""What the page says of several tasks: each by its name, none left out, teachers added up, heads taken along."""

from __future__ import annotations

import re
from typing import Any

import pytest

from compressor.report.headline import headline
from compressor.report.overview import overview
from compressor.report.page import render
from compressor.report.sections import gates_table, warm_start
from compressor.report.table import comparison_table
from compressor.report.tiles import tiles
from tests.compressor.report.conftest import measured

TASKS = ("intent", "urgency", "topics")


@pytest.fixture
def unlike(several_tasks: dict[str, Any]) -> dict[str, Any]:
    """Three teachers that read different tokens, and so were timed one by one."""
    rows = [row for row in several_tasks["measurements"] if row["variant"] != "teacher"]
    apart = [
        measured(f"teacher-{task}", "torch", "fp32", time) for task, time in zip(TASKS, (7.0, 5.0, 3.0), strict=True)
    ]
    several_tasks["measurements"] = [*rows, *apart, measured("teacher-intent", "torch", "fp32", 50.0, batch_size=8)]
    return several_tasks


def test_teachers_timed_one_by_one_are_the_baseline_together(unlike: dict[str, Any]) -> None:
    """Catches a speed-up over the student itself because no single teacher was timed, or over one of three teachers."""
    view = overview(unlike)
    assert view.teacher is not None
    assert view.teacher.p50_ms == pytest.approx(15.0)
    assert view.baseline is view.teacher
    assert "timed one by one, the sum is shown" in view.teacher.what
    assert "3 teachers in turn, unpadded, in torch" in headline(unlike)


def test_teachers_timed_together_need_no_note(several_tasks: dict[str, Any]) -> None:
    """Catches a note about a sum that nobody formed."""
    (row, *_) = comparison_table(several_tasks).rows
    assert row[0] == "3 teachers"
    assert "sum" not in row[1]


def test_headline_and_tiles_name_every_task(several_tasks: dict[str, Any]) -> None:
    """Catches a headline about the first task, which may be the one that went well."""
    said = headline(several_tasks)
    titles = [tile.title for tile in tiles(several_tasks, overview(several_tasks))]
    for task, metric in zip(TASKS, ("accuracy", "Pearson", "micro F1"), strict=True):
        assert f"{task} {metric} " in said
        assert f"{task}: {metric}" in titles


def test_gates_have_a_row_per_task(several_tasks: dict[str, Any]) -> None:
    """Catches a failed task that hides behind a passed one."""
    gates = gates_table(several_tasks)
    assert gates is not None
    place = gates.columns.index("task")
    assert {row[place] for row in gates.rows} == set(TASKS)


def test_a_gate_that_all_tasks_passed_is_one_row_with_its_worst(several_tasks: dict[str, Any]) -> None:
    """Catches eight tasks times seven gates in which nobody finds the one that failed."""
    low = several_tasks["gates"][0] | {"low": 1e-9, "high": 1e-9, "measured": 1e-9}
    high = low | {"task": "urgency", "low": 2e-5, "high": 2e-5, "measured": 2e-5}
    several_tasks["gates"] = [low, high, low | {"task": "topics"}, *several_tasks["gates"][1:]]
    table = gates_table(several_tasks)
    assert table is not None
    assert [row[2] for row in table.rows] == ["all 3, worst: urgency", *TASKS]
    assert table.rows[0][5] == "2e-5"
    assert table.marks == ("passed", "passed", "failed", "inconclusive")


@pytest.mark.parametrize("verdict", ["failed", "inconclusive"])
def test_a_gate_that_one_task_did_not_pass_has_a_row_per_task(several_tasks: dict[str, Any], verdict: str) -> None:
    """Catches an undecided task that is counted among those that passed."""
    gate = several_tasks["gates"][0]
    several_tasks["gates"] = [gate, gate | {"task": "urgency", "verdict": verdict}]
    table = gates_table(several_tasks)
    assert table is not None
    assert [row[2] for row in table.rows] == ["intent", "urgency"]
    assert table.marks == ("passed", verdict)


def test_the_page_tells_which_heads_were_taken_along(several_tasks: dict[str, Any]) -> None:
    """Catches a warm start that looks like training from scratch."""
    assert warm_start(several_tasks) == []
    assert "earlier student" not in render(several_tasks)
    several_tasks["warm_start"] = {
        "model": "runs/<desk>/student",
        "heads": [
            {"task": "intent", "is_copied": True, "detail": ""},
            {"task": "urgency", "is_copied": False, "detail": "the earlier student answers intent"},
        ],
    }
    assert warm_start(several_tasks) == [
        "intent: head taken along", "urgency: fresh head, the earlier student answers intent",
    ]  # fmt: skip
    page = re.sub(r"\s+", " ", render(several_tasks))
    assert "Student and controls start where an earlier student ended, <code>runs/&lt;desk&gt;/student</code>:" in page
    assert "<li>urgency: fresh head, the earlier student answers intent</li>" in page
