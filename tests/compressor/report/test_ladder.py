"""The parity ladder and the choices of invariance on the page."""

from __future__ import annotations

from typing import Any

import pytest

from compressor.report.ladder import NOT_EXPORTED, invariance_table, ladder_table, problems
from compressor.report.page import render
from compressor.report.wording import MISSING


def test_the_ladder_has_a_row_per_rung_and_task_from_the_top(report: dict[str, Any]) -> None:
    """A reader looks for the first rung with a difference: the order is the message."""
    table = ladder_table(report)

    assert table is not None
    assert [row[0].partition(":")[0] for row in table.rows] == ["tokens", "plain", "fp32", "int8"]
    assert [row[3] for row in table.rows] == [MISSING, "torch", "plain", "plain"]
    assert table.rows[2][4:] == ("9.5e-7", "1.19e-7", "100.0%", "accuracy 0.000", "2.38e-6")
    assert table.rows[3][7] == "accuracy 0.004 [-0.006, 0.014]"
    assert set(table.marks) == {""}


def test_a_rung_that_failed_is_marked_and_its_problem_told(report: dict[str, Any]) -> None:
    """A graph that could not be run has no figures: without its reason the row would look merely empty."""
    report["ladder"][2] |= {"passed": False, "problem": "it cannot run a batch of 7 x 9 tokens", "comparisons": {}}

    table = ladder_table(report)

    assert table is not None
    assert table.marks == ("", "", "failed", "")
    assert table.rows[2][2] == "✗ not passed"
    assert table.rows[2][4:] == (MISSING,) * 5
    assert problems(report) == ["fp32: it cannot run a batch of 7 x 9 tokens."]
    assert "fp32: it cannot run a batch of 7 x 9 tokens." in render(report)


def test_every_choice_has_its_price_against_dynamic_int8(report: dict[str, Any]) -> None:
    """The price must be that of the same work: eight texts alone cost eight calls."""
    report["measurements"] += [
        {**report["measurements"][2], "batch_size": 8, "p50_ms": 29.6},  # the bundle's fp32
    ]
    table = invariance_table(report)

    assert table is not None
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["fp32"] == ("1.4e-6", "0 of 24", "69.6 MB", "1.5×", "2.0×")
    assert rows["int8 (dynamic), several texts per call"] == ("0.11", "2 of 24", "17.6 MB", "1.0×", "1.0×")
    alone = rows["int8 (dynamic), one text per call and lane"]
    assert alone[:2] == ("0", "0 of 24")
    assert alone[4] == "1.0×"  # 8 x 1.9 ms against 14.8 ms
    assert rows["int8_static"] == (NOT_EXPORTED, *[MISSING] * 4)
    assert rows["int8_weights (accuracy level 4)"][0] == NOT_EXPORTED


def test_what_was_not_timed_has_no_price(report: dict[str, Any]) -> None:
    """A ratio of what is not there."""
    report["measurements"] = []

    table = invariance_table(report)

    assert table is not None
    assert {row[4:] for row in table.rows} == {(MISSING, MISSING)}


@pytest.mark.parametrize("table", [ladder_table, invariance_table])
def test_a_report_of_an_earlier_version_has_neither(report: dict[str, Any], table: Any) -> None:
    """Old reports are drawn again; an empty table is no finding."""
    del report["ladder"]
    for artifact in report["artifacts"]:
        del artifact["invariance"]

    assert table(report) is None
    assert "Parity ladder" not in render(report)
