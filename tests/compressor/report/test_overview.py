"""The one reading of a report that headline, plot and table share."""

from __future__ import annotations

import math
from typing import Any

from compressor.report.overview import overview, table_rows
from compressor.report.table import comparison_table
from compressor.report.tradeoff import accuracy_against_latency


def test_rows_are_teacher_student_artifacts_and_controls(report: dict[str, Any]) -> None:
    """A table without its control would show a method's figure as the method's merit."""
    assert [variant.kind for variant in table_rows(report)] == [
        "teacher",
        "student",
        "artifact",
        "artifact",
        "control",
    ]


def test_the_baseline_is_the_teacher_at_its_quickest(report: dict[str, Any]) -> None:
    """A speed-up over a teacher in a slow setting sells that setting, not the compression."""
    report["measurements"].insert(0, report["measurements"][0] | {"precision": "bf16", "p50_ms": 5.7})
    view = overview(report)
    assert view.baseline is not None
    assert view.baseline.p50_ms == 5.7
    assert math.isclose(view.speed_up(view.answer) or 0.0, 5.7 / 1.9)


def test_padded_and_batched_measurements_are_no_baseline(report: dict[str, Any]) -> None:
    """Only the same batch and threads may be compared: a batch of 8 takes longer than a text."""
    report["measurements"] = [
        *report["measurements"][4:],
        report["measurements"][0] | {"variant": "teacher_padded", "p50_ms": 20.0},
        report["measurements"][3],
    ]
    view = overview(report)
    assert view.baseline is None
    assert str(view.point) == "batch 1, one CPU thread"
    assert view.answer.p50_ms == 1.9


def test_latencies_are_compared_on_the_cpu_when_there_is_a_gpu_too(report: dict[str, Any]) -> None:
    """A teacher on a GPU beside a student on a CPU would turn the answer around."""
    report["measurements"] = [measurement | {"threads": 2} for measurement in report["measurements"]]
    report["measurements"].append(report["measurements"][0] | {"device": "cuda", "threads": 1, "p50_ms": 0.9})
    view = overview(report)
    assert view.point is not None
    assert view.point.device == "cpu"
    assert view.baseline is not None
    assert view.baseline.p50_ms == 7.1


def test_the_default_artifact_is_the_answer(report: dict[str, Any]) -> None:
    """The headline must speak of what `serve` runs, not of the smallest file."""
    for artifact in report["artifacts"]:
        artifact["is_default"] = artifact["precision"] == "fp32"
    assert overview(report).answer.precision == "fp32"


def test_table_shows_intervals_sizes_and_the_baseline(report: dict[str, Any]) -> None:
    """The terminal prints exactly these cells."""
    table = comparison_table(report)
    assert table.columns == ("variant", "what it is", "size", "parameters", "accuracy", "p50, ms", "speed-up")
    assert table.rows[0][:2] == ("teacher", "all-MiniLM-L6-v2, 6 layers, torch")
    assert table.rows[0][2:] == ("90.9 MB", "22.7M", "0.746 [0.715, 0.776]", "7.1", "baseline")
    assert table.rows[3][2:] == ("17.6 MB", "17.4M", "0.677 [0.642, 0.710]", "1.9", "3.7×")
    assert table.rows[4][4:] == ("0.667 [0.633, 0.699]", "—", "—")
    assert table.mark(3) == "default"


def test_a_column_per_task_names_task_and_metric(several_tasks: dict[str, Any]) -> None:
    """Two columns called accuracy would be read as one model's two tries."""
    columns = comparison_table(several_tasks).columns
    assert columns[4:7] == ("intent: accuracy", "urgency: Pearson", "topics: micro F1")


def test_marker_area_is_in_proportion_to_bytes(report: dict[str, Any]) -> None:
    """A diameter in proportion would show a fifth of the size as a twenty-fifth."""
    figure = accuracy_against_latency(overview(report), "intent")
    assert figure is not None
    size = {trace["name"]: trace["marker"]["size"] for trace in figure["data"] if "marker" in trace}
    ratio = (size["teacher"] / size["student, ONNX int8"]) ** 2
    assert math.isclose(ratio, 90_882_104 / 17_612_544, rel_tol=1e-6)


def test_bars_are_the_interval_on_both_sides(report: dict[str, Any]) -> None:
    """Plotly wants distances, not ends; ends would draw bars of 0.7 in length."""
    figure = accuracy_against_latency(overview(report), "intent")
    assert figure is not None
    teacher = next(trace for trace in figure["data"] if trace["name"] == "teacher")
    assert math.isclose(teacher["error_y"]["array"][0], 0.776 - 0.746)
    assert math.isclose(teacher["error_y"]["arrayminus"][0], 0.746 - 0.715)
