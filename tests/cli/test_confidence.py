"""Calibration and churn through the whole chain: what a run measured is what its report and its bundle say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest


def test_a_run_reports_calibration_and_churn(toy_run: Any) -> None:
    """A stage that reads other figures than its report shows nothing of it."""
    report = toy_run.report()
    manifest = json.loads((toy_run.run / "bundle" / "manifest.json").read_text())
    for task in manifest["tasks"]:
        found = report["calibration"][task["name"]]
        assert found["temperature"] == task["temperature"] == found["fit"]["temperature"]
        assert found["fit"]["rows"] == report["tasks"][task["name"]]["rows"]["validation"]
        assert found["rows"] == report["tasks"][task["name"]]["rows"]["test"]
        names = [model["model"] for model in found["models"]]
        controls = [f"control: {name}" for name in report["controls"]]
        artifacts = [artifact["precision"] for artifact in report["artifacts"]]
        assert names[: 2 + len(controls)] == ["teacher", "student", *controls]
        assert names[-len(artifacts) :] == artifacts
        pairs = [(one["model"], one["against"]) for one in report["churn"][task["name"]]]
        assert pairs == [(name, "teacher") for name in ("student", *artifacts)] + [("int8", "fp32")]
    page = (toy_run.run / "report.html").read_text()
    assert "May its confidence be believed?" in page
    assert "Whose answers changed?" in page


def test_churn_agrees_with_the_metrics_of_the_same_report(toy_run: Any) -> None:
    """Two ways to the same loss: answers that are counted on another split or order would not agree."""
    report = toy_run.report()
    for task, pairs in report["churn"].items():
        lost = next(one for one in pairs if (one["model"], one["against"]) == ("student", "teacher"))["drop"]["value"]
        accuracy = {
            model: report[model]["tasks"][task]["metrics"]["accuracy"]["value"] for model in ("teacher", "student")
        }
        assert lost == pytest.approx(accuracy["teacher"] - accuracy["student"])


def test_a_gate_on_slices_ends_the_run(own_run: Any, compressor: Callable[..., Any]) -> None:
    """A toy's validation split has no slice of fifty texts: the gate has no value, and exit code 0 would hide it."""
    result = compressor("run", own_run.run, "--set", "gates.worst_slice_drop=0.5")
    assert result.code == 3
    assert "worst_slice_drop of int8" in result.error
    assert "no class and no length has 50 validation texts" in result.error


def test_a_temperature_is_not_fitted_when_the_recipe_says_none(own_run: Any, compressor: Callable[..., Any]) -> None:
    """A setting that is read too late leaves the old temperature in the bundle."""
    compressor("run", own_run.run, "--set", "export.temperature=none")
    report = own_run.report()
    for found in report["calibration"].values():
        assert found["temperature"] == 1.0
        assert found["fit"] is None
