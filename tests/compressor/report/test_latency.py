"""The latency section: tables, ratios and warnings."""

from __future__ import annotations

from typing import Any

import pytest

from compressor.report.latency import baseline_name, latency_table, nodes_in_words, parts_table, timing_notes
from compressor.report.page import render

RATIO = {"over": "teacher", "value": 3.737, "low": 3.6, "high": 3.9, "confidence": 0.97, "rounds": 6}


def test_a_missing_percentile_says_why(report: dict[str, Any]) -> None:
    """A dash would read as `not asked for`; 40 samples cannot support a 99th percentile."""
    table = latency_table(report)
    assert table is not None
    assert table.rows[5][8] == "too few samples"
    assert table.rows[0][8] == "11.4"


def test_a_ratio_stands_with_its_interval_or_without_a_claim(report: dict[str, Any]) -> None:
    """Three rounds give an interval that is too narrow for what it would be read as."""
    rows = report["measurements"]
    rows[3]["speed_up"] = {**RATIO, "verdict": "faster"}
    rows[2]["speed_up"] = {**RATIO, "verdict": "too few rounds"}

    table = latency_table(report)

    assert table is not None
    assert [table.rows[place][-1] for place in (0, 2, 3)] == ["—", "3.74", "3.74 [3.60, 3.90]"]
    assert baseline_name(report) == "teacher"


def test_parts_of_a_call_stand_side_by_side(report: dict[str, Any]) -> None:
    """A call's time that is half tokenising is not made shorter by another model."""
    assert parts_table(report) is None
    report["measurements"][3] |= {"tokenise_ms": 0.2, "run_ms": 1.9, "answer_ms": None, "total_ms": 2.1}

    table = parts_table(report)

    assert table is not None
    assert table.rows == (("student (bundle)", "onnxruntime", "int8", "cpu", "1", "1", "0.20", "1.9", "—", "2.1"),)


def test_attention_stands_beside_torch(report: dict[str, Any]) -> None:
    """Which torch was beaten?"""
    report["measurements"][0]["attention"] = "sdpa"

    table = latency_table(report)

    assert table is not None
    assert table.rows[0][1] == "torch, sdpa"


@pytest.mark.parametrize("notes", [[], ["Other programs kept 0.30 of the 2 CPUs busy."]])
def test_what_disturbed_the_timing_is_on_the_page(report: dict[str, Any], notes: list[str]) -> None:
    """A warning in a JSON file that nobody opens."""
    report["timing"] = {"notes": notes, "conditions": {}, "drift": None}

    assert timing_notes(report) == notes
    assert all(note in render(report) for note in notes)


def test_nodes_that_ran_elsewhere_are_told_per_precision(report: dict[str, Any]) -> None:
    """A fallback that was allowed must be shown."""
    report["measurements"][3] |= {"device": "cuda", "nodes": {"CUDAExecutionProvider": 90, "CPUExecutionProvider": 12}}
    report["measurements"][2]["nodes"] = {"CPUExecutionProvider": 80}

    (sentence,) = nodes_in_words(report)

    assert sentence == "int8 on cuda: 90 operators by CUDAExecutionProvider, 12 operators by CPUExecutionProvider."
    assert sentence in render(report)
