"""The sections on calibration and churn: figures under the right name, and words that follow from them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from playwright.sync_api import Browser

from compressor.evaluation.calibration import calibration_figures
from compressor.evaluation.churn import churn_figures
from compressor.report.calibration import calibration_views, uncalibrated_tasks
from compressor.report.churn import churn_views
from compressor.report.page import render, write_page
from export.temperature import calibrated, fit_temperature
from serving.answers import decide
from serving.manifest import TaskSpec

ROWS = 768
STARS = TaskSpec(name="urgency", type="regression")


@cache
def sections(labels_of: tuple[str, ...]) -> str:
    """Both sections as JSON: a student whose logits are twice too large, which its temperature takes back."""
    rng = np.random.default_rng(0)
    truth = rng.normal(scale=2.5, size=(ROWS, len(labels_of)))
    shares = np.exp(truth) / np.exp(truth).sum(axis=1, keepdims=True)
    labels = (rng.random(ROWS)[:, None] > shares.cumsum(axis=1)).sum(axis=1).clip(0, len(labels_of) - 1)
    names = ("teacher", "student", "fp32", "int8")
    logits = {
        name: 2.0 * (truth + noise * rng.normal(size=truth.shape))
        for name, noise in zip(names, (0.1, 0.5, 0.5, 0.6), strict=True)
    }
    fit = fit_temperature(logits["student"], labels, "classification")
    task = calibrated(TaskSpec(name="intent", type="classification", labels=labels_of), fit.temperature)
    torch = {name: logits[name] for name in ("teacher", "student")} | {"control: none": logits["student"]}
    served = {name: logits[name] for name in ("student", "fp32", "int8")}
    found = calibration_figures(task, labels, torch, served=served, drawn="int8")
    assert found is not None
    calibration = {"intent": {**found, "fit": msgspec.to_builtins(fit)}, "urgency": None}
    lengths = rng.integers(4, 40, ROWS).tolist()
    decisions = {name: decide(one, task) for name, one in logits.items()}
    values = {name: rng.normal(3.0, 1.0, ROWS) for name in ("teacher", "fp32", "int8")}
    churn = {
        "intent": churn_figures(task, labels, lengths, decisions),
        "urgency": churn_figures(STARS, rng.normal(3.0, 1.0, ROWS), lengths, values),
    }
    return json.dumps({"calibration": calibration, "churn": churn}, allow_nan=False)


@pytest.fixture
def measured(report: dict[str, Any]) -> dict[str, Any]:
    """A report with both sections."""
    found: dict[str, Any] = json.loads(sections(tuple(report["tasks"]["intent"]["labels"])))
    return {**report, **found}


def test_the_table_has_a_row_per_model_and_temperature(measured: dict[str, Any]) -> None:
    """The student before and after its temperature must both stand there, or nobody sees what it did."""
    (view,) = calibration_views(measured)
    temperature = f"{measured['calibration']['intent']['temperature']:.3g}"
    assert [row[:2] for row in view.table.rows] == [
        ("teacher", "1"),
        ("student, torch", "1"),
        ("control: none", "1"),
        ("student, torch", temperature),
        ("student, ONNX fp32", temperature),
        ("student, ONNX int8", temperature),
    ]
    int8 = measured["calibration"]["intent"]["models"][-1]
    assert view.table.rows[-1][4].startswith(f"{int8['ece']['value']:.3f} [")
    assert view.table.rows[-1][5] == f"{int8['expected_ece']['value']:.3f}, ≤ {int8['expected_ece']['high']:.3f}"
    assert all(len(row) == len(view.table.columns) for row in view.table.rows)
    assert uncalibrated_tasks(measured) == ["urgency"]


def test_calibrated_confidence_is_not_called_wrong(measured: dict[str, Any]) -> None:
    """An ECE of a few hundredths on 768 texts is chance, and must be told as such."""
    (view,) = calibration_views(measured)
    assert "cannot be told from a perfectly calibrated one on these 768 test texts" in view.seen[0]
    fit = measured["calibration"]["intent"]["fit"]
    assert f"fitted {fit['fitted']:.3g} [{fit['low']:.3g}, {fit['high']:.3g}] on 768 validation texts" in view.seen[1]
    assert view.seen[1].endswith("It changes no answer.")


@pytest.mark.parametrize(("factor", "word"), [(1.6, "high"), (0.5, "low")])
def test_wrong_confidence_is_said_with_its_direction(measured: dict[str, Any], factor: float, word: str) -> None:
    """Too sure and not sure enough call for opposite care."""
    facts = measured["calibration"]["intent"]
    facts["models"][-1]["ece"]["value"] = 0.2
    for point in facts["reliability"]["after"]:
        point["right"] = 0.5
        point["confidence"] = 0.5 * factor
    (view,) = calibration_views(measured)
    assert (
        f"its confidence is too {word}: {0.5 * factor:.1%} on average, and 50.0% of its answers are right"
        in (view.seen[0])
    )
    assert "ECE 0.200" in view.seen[0]


def test_a_temperature_that_was_not_used_says_why(measured: dict[str, Any]) -> None:
    """A silent 1 could be a setting, a failure or a finding."""
    facts = measured["calibration"]["intent"]
    facts["fit"] = {"temperature": 1.0, "rows": 20, "reason": "kept at 1: too few", "gain": None}
    assert "Temperature 1, kept at 1: too few." in calibration_views(measured)[0].seen
    facts["fit"] = None
    assert any("export.temperature: none" in sentence for sentence in calibration_views(measured)[0].seen)


def test_the_diagram_shows_both_readings_and_the_counts(measured: dict[str, Any]) -> None:
    """A curve under the other's name would turn the finding round."""
    figure = calibration_views(measured)[0].plot
    before, after = (trace for trace in figure["data"] if trace.get("mode") == "lines+markers")
    facts = measured["calibration"]["intent"]["reliability"]
    assert (before["name"], after["name"]) == ("without temperature", "as it is served")
    assert before["y"] == [point["right"] for point in facts["before"]]
    assert after["x"] == [point["confidence"] for point in facts["after"]]
    bars = [trace for trace in figure["data"] if trace["type"] == "bar"]
    assert [sum(trace["y"]) for trace in bars] == [ROWS, ROWS]
    measured["calibration"]["intent"]["temperature"] = 1.0
    names = [trace.get("name") for trace in calibration_views(measured)[0].plot["data"]]
    assert "without temperature" not in names


def test_churn_is_shown_for_every_pair(measured: dict[str, Any]) -> None:
    """Directions in the wrong column would call a loss a gain."""
    intent, urgency = churn_views(measured)
    pair = measured["churn"]["intent"][2]
    row = intent.table.rows[2]
    assert row[:2] == ("the int8 student", "the teacher")
    assert row[3:6] == tuple(
        str(pair["flips"][name]) for name in ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")
    )
    assert row[6].startswith(f"{100 * pair['drop']['value']:+.1f} points")
    assert row[7].startswith(pair["worst_slice"]["name"])
    assert intent.title == "the int8 student against the teacher"
    assert urgency.table.rows[0][2:6] == ("—", "—", "—", "—")
    assert urgency.plot is None
    assert urgency.slices is not None


def test_slices_are_drawn_from_the_worst_down(measured: dict[str, Any]) -> None:
    """The slice to look at must be on top, its losses to the left and its gains to the right."""
    view = churn_views(measured)[0]
    assert view.plot is not None
    slices = measured["churn"]["intent"][2]["slices"]
    worst = max(slices, key=lambda part: part["drop"]["value"])
    lost, won = view.plot["data"]
    assert view.plot["layout"]["yaxis"]["ticktext"][-1] == f"{worst['name']} ({worst['rows']})"
    assert lost["x"][-1] == -worst["flips"]["right_to_wrong"] / worst["rows"]
    assert won["x"][-1] == worst["flips"]["wrong_to_right"] / worst["rows"]
    assert max(lost["x"]) <= 0 <= min(won["x"])
    assert view.slices is not None
    assert len(view.slices.rows) == len(slices)


def test_small_slices_are_named(measured: dict[str, Any]) -> None:
    """A class that is missing from the table looks as if it did not exist."""
    measured["churn"]["intent"][2]["left_out"] = ["fraud", "refund"]
    assert churn_views(measured)[0].left_out == "Left out for too few test texts: fraud and refund."
    measured["churn"]["intent"][2] |= {"slices": [], "worst_slice": None}
    view = churn_views(measured)[0]
    assert view.plot is None
    assert view.table.rows[2][7] == "too few texts"


def test_a_report_without_the_sections_is_still_a_page(report: dict[str, Any]) -> None:
    """Reports of earlier versions must open."""
    html = render(report)
    assert 'id="calibration"' not in html
    assert 'id="churn"' not in html


@pytest.mark.parametrize("width", [400, 1280])
def test_both_sections_open_in_a_browser(
    measured: dict[str, Any], chromium: Browser, tmp_path: Path, width: int
) -> None:
    """Two axes in one drawing, and bars to both sides: what plotly refuses is seen here only."""
    write_page(measured, tmp_path / "report.html")
    context = chromium.new_context(offline=True, viewport={"width": width, "height": 900})
    tab = context.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto((tmp_path / "report.html").as_uri())
    dots = sum(len(measured["calibration"]["intent"]["reliability"][name]) for name in ("before", "after"))
    assert tab.locator("#calibration .scatterlayer .points path.point").count() == dots
    assert tab.locator("#calibration .barlayer .point").count() == dots
    bars = tab.locator("#churn .barlayer .point").count()
    assert bars == 2 * len(measured["churn"]["intent"][2]["slices"])
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert not errors
    context.close()
