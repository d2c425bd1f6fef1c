"""The section on quantisation: right figures in the right rows, words that say what was done and at what price."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import pytest

from compressor.report.page import render
from compressor.report.quantisation import PrecisionView, precision_view, quantisation_views


def effect(error: float, change: float | None = -0.004, changed: float = 0.02) -> dict[str, Any]:
    return {"squared_error": error, "metric_change": change, "answers_changed": changed}


def layer(name: str, role: str, *, stored: str = "int8", reason: str | None = None) -> dict[str, Any]:
    sizes = {"weights": 1000, "expected_bytes": 1000, "actual_bytes": 4000 if stored == "fp32" else 1040}
    return {"layer": name, "role": role, "block": 0, "stored": stored, "reason": reason, **sizes}


FACTS: dict[str, Any] = {
    "operators": {"MatMul": 20, "Gather": 3},
    "layers": [
        layer("encoder/layer.0/attention/self/query", "attention query"),
        layer("encoder/layer.0/output/dense", "feed-forward out", stored="fp32", reason="left in fp32 for the gate"),
    ],
    "exclusion": {
        "mode": "auto",
        "layers": ["encoder/layer.0/output/dense"],
        "steps": [
            {"layer": None, "metric_drop": 0.021, "low": 0.004, "high": 0.036, "verdict": "inconclusive"},
            {
                "layer": "encoder/layer.0/output/dense",
                "metric_drop": 0.002,
                "low": -0.003,
                "high": 0.008,
                "verdict": "passed",
            },
        ],
        "note": "with every layer quantised the gate is undecided; with 1 layer in fp32 it holds",
        "bytes_paid": 1_770_000,
        "latency_ratio": [1.08, 1.05, 1.11],
    },
    "fallbacks": {},
    "expected_bytes": 17_500_000,
    "actual_bytes": 19_400_000,
    "num_quantised": 23,
    "texts": 48,
    "calibration_texts": 256,
    "sensitivity": [
        {"layer": "encoder/layer.0/attention/self/query", "only": effect(1e-4), "without": effect(0.031)},
        {"layer": "encoder/layer.0/output/dense", "only": effect(0.03, None, 0.1), "without": effect(2e-3)},
    ],
    "ranges": [
        {
            "method": method,
            "effect": effect(error),
            "clipped": clipped,
            "worst_clipped": 3 * clipped,
            "worst_input": "x",
            "is_chosen": method == "mse",
        }
        for method, error, clipped in (("minmax", 0.04, 0.0), ("mse", 0.01, 0.0012))
    ],
}


@pytest.fixture
def view() -> PrecisionView:
    return precision_view("int8_static", FACTS)


def test_a_layers_row_has_its_own_figures_and_reason(view: PrecisionView) -> None:
    """Catches figures of one layer under another's name, and a layer in fp32 without its reason."""
    first, second = (dict(zip(view.layers.columns, row, strict=True)) for row in view.layers.rows)
    assert (first["stored as"], first["why"], first["bytes in the file"]) == ("int8", "—", "1,040")
    assert (first["alone: logit MSE"], first["all but it: logit MSE"]) == ("0.0001", "0.031")
    assert (second["stored as"], second["why"]) == ("fp32", "left in fp32 for the gate")
    assert (second["alone: logit MSE"], second["alone: metric"]) == ("0.03", "—")
    assert (second["alone: answers changed"], second["all but it: metric"]) == ("10.0%", "-0.004")


def test_the_price_of_the_exclusion_is_told(view: PrecisionView) -> None:
    """Catches layers in fp32 that look free."""
    words = " ".join(view.sentences)
    assert "20 MatMul and 3 Gather read weights of fewer bits" in words
    assert "19.4 MB" in words
    assert "17.5 MB" in words
    assert "With every layer quantised the gate is undecided; with 1 layer in fp32 it holds." in words
    assert "costs 1.8 MB, and one text takes 1.1× [1.05, 1.11] as long" in words
    assert "48 training texts" in words
    assert "256 training texts" in words


def test_the_search_and_the_ranges_are_tables(view: PrecisionView) -> None:
    """Catches a search whose order or verdicts are lost, and a chosen range that is not marked."""
    assert view.steps is not None
    assert [row[1:4] for row in view.steps.rows] == [
        ("none", "inconclusive", "+0.021"),
        ("encoder/layer.0/output/dense", "passed", "+0.002"),
    ]
    assert view.ranges is not None
    assert [row[0].split(":")[0] for row in view.ranges.rows] == ["minmax", "mse"]
    assert view.ranges.rows[1][1:] == ("0.01", "-0.004", "2.0%", "0.120%", "0.360%")
    assert view.ranges.marks == ("", "default")


def test_a_search_that_found_nothing_to_do_is_no_table() -> None:
    """Catches a table of one row that says what the sentence said."""
    calm = FACTS | {"exclusion": {"mode": "auto", "layers": [], "steps": FACTS["exclusion"]["steps"][:1], "note": "ok"}}
    assert precision_view("int8", calm | {"ranges": [], "sensitivity": []}).steps is None
    assert precision_view("int8", calm | {"ranges": []}).ranges is None
    assert precision_view("int8", calm | {"sensitivity": []}).plot is None


def test_the_plot_has_a_bar_per_layer_and_plotly_knows_it(view: PrecisionView) -> None:
    """plotly.js ignores a misspelt attribute in silence; the Python schema refuses it."""
    assert view.plot is not None
    go.Figure(view.plot)
    assert view.plot["data"][0]["x"] == [1e-4, 0.03]


def test_fallbacks_of_fp16_are_named() -> None:
    """Catches operators that stay fp32 in silence."""
    facts = FACTS | {"fallbacks": {"/layer.1/MatMul": "met 1e+06, fp16 ends at 65504"}, "ranges": [], "sensitivity": []}
    table = precision_view("fp16", facts).fallbacks
    assert table is not None
    assert table.rows == (("/layer.1/MatMul", "met 1e+06, fp16 ends at 65504"),)


def test_the_page_has_the_section_where_something_was_quantised(report: dict[str, Any]) -> None:
    """Catches a page that cannot be drawn for a run of fp32 alone, or of an older version."""
    empty: list[dict[str, Any]] = [{}, {"quantisation": None}, {"quantisation": {}}]
    for nothing in empty:
        assert quantisation_views(report | nothing) == []
        assert 'id="quantisation"' not in render(report | nothing)
    page = render(report | {"quantisation": {"int8": FACTS}})
    assert 'id="quantisation"' in page
    assert "encoder/layer.0/attention/self/query" in page
