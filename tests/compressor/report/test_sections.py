"""Classes, curves and the smaller tables."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
import pytest

from compressor.report import environment, sections
from compressor.report.classes import class_views, f1_per_class
from compressor.report.curves import learning_curves
from compressor.report.overview import overview
from compressor.report.tradeoff import accuracy_against_latency
from compressor.report.wording import compact, duration, megabytes, millions, milliseconds


def test_every_drawing_is_a_figure_that_plotly_knows(several_tasks: dict[str, Any]) -> None:
    """plotly.js ignores a misspelt attribute in silence; the Python schema refuses it."""
    view = overview(several_tasks)
    drawings = [accuracy_against_latency(view, task) for task in view.tasks]
    drawings += [found.plot for found in class_views(several_tasks)]
    drawings += learning_curves(several_tasks)
    assert len(drawings) == 3 + 2 + 4
    for drawing in drawings:
        go.Figure(drawing)


def test_only_tasks_with_classes_have_figures_per_class(several_tasks: dict[str, Any]) -> None:
    """A regression has no classes; an empty plot would look like a failure."""
    assert [view.task for view in class_views(several_tasks)] == ["intent", "topics"]


def test_the_worst_class_of_the_student_stands_on_top(report: dict[str, Any]) -> None:
    """Plotly counts upwards: sorted the other way, the weakest class hides at the end."""
    student = report["student"]["tasks"]["intent"]["per_class"]
    plot = f1_per_class(student, report["teacher"]["tasks"]["intent"]["per_class"])
    worst = min(student, key=lambda c: c["f1"])["label"]
    assert plot["layout"]["yaxis"]["ticktext"][-1] == f"{worst} (64)"
    assert plot["layout"]["yaxis"]["tickvals"][-1] == 11


def test_many_classes_are_cut_to_the_weakest() -> None:
    """77 lines are no picture; what is left out must be the classes that are fine."""
    classes = [{"label": f"c{n}", "precision": 0.5, "recall": 0.5, "f1": n / 77, "support": 40} for n in range(77)]
    ticks = f1_per_class(classes, [])["layout"]["yaxis"]["ticktext"]
    assert ticks == [f"c{n} (40)" for n in range(29, -1, -1)]


def test_confusions_are_the_largest_counts_beside_the_diagonal(report: dict[str, Any]) -> None:
    """Rows are labels and columns answers; swapped, the table accuses the wrong class."""
    confusions = class_views(report)[0].confusions
    assert confusions is not None
    assert confusions.rows[0] == ("complaint", "feedback", "14 of 68")
    assert confusions.rows[1] == ("refund", "cancel", "9 of 63")


def test_a_curve_is_drawn_for_the_tasks_that_a_model_learned(several_tasks: dict[str, Any]) -> None:
    """The teacher of one task has no figure for another; the student has one for each."""
    names = [[trace["name"] for trace in figure["data"]] for figure in learning_curves(several_tasks)]
    assert names[0] == ["teacher, intent", "student", "control: none"]
    assert names[1] == ["teacher, urgency", "student", "control: none"]
    assert names[3] == ["teacher, intent", "teacher, urgency", "teacher, topics", "student", "control: none"]


def test_gates_show_limit_interval_and_verdict(several_tasks: dict[str, Any]) -> None:
    """The verdict alone cannot be argued with."""
    table = sections.gates_table(several_tasks)
    assert table is not None
    assert table.rows[2][0] == "✗ failed"
    assert table.rows[2][2:] == ("urgency", "int8", "0.01", "0.021", "[0.012, 0.031]")
    assert table.marks == ("passed", "passed", "failed", "inconclusive")


def test_answers_of_every_task_type_are_readable(several_tasks: dict[str, Any]) -> None:
    """A multilabel answer without labels is an answer, not a gap."""
    table = sections.examples_table(several_tasks)
    assert table is not None
    assert table.rows[0][1:] == ("billing (0.81)", "0.41", "no label")


def test_controls_stand_beside_the_student_by_method(report: dict[str, Any]) -> None:
    """`student` alone would not tell which method the control is the control of."""
    table = sections.controls_table(report, overview(report))
    assert table is not None
    assert [row[0] for row in table.rows] == ["student: kd", "control: none"]


def test_a_training_that_stopped_early_says_so(report: dict[str, Any]) -> None:
    """Fewer steps than planned change what a comparison means."""
    report["student"]["training"][""]["steps"] = 300
    table = environment.trainings_table(report)
    assert table is not None
    assert [row[5] for row in table.rows] == ["400", "300 of 800", "800"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (megabytes(17_612_544), "17.6 MB"),
        (megabytes(48_200), "0.048 MB"),
        (megabytes(math.nan), "—"),
        (milliseconds(0.4149), "0.41"),
        (milliseconds(7.06), "7.1"),
        (milliseconds(1234.0), "1,234"),
        (millions(22_717_836), "22.7M"),
        (millions(4_310), "4k"),
        (duration(151.2), "2 min 31 s"),
        (duration(59.7), "1 min 0 s"),
        (compact(2.38e-6), "2.38e-6"),
        (compact(0.01), "0.01"),
        (compact(None), "—"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    """`0.0 MB`, `1 min 60 s` or `nan` would be believed or laughed at."""
    assert written == expected
