"""Figures per class: student beside teacher, and what the student confuses most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report.plots import FAINT, Figure, colour, layout, shown
from compressor.report.table import Table
from compressor.report.wording import MISSING, count, figure

_MOST_DRAWN = 30
_MOST_CONFUSIONS = 6

PerClass = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ClassView:
    """What the page shows of one task's classes.

    Attributes:
        task: its name.
        plot: F1 of student and teacher, None without classes.
        is_cut: whether only the classes with the lowest F1 are drawn.
        table: every class.
        confusions: the student's most frequent wrong answers; None where they are not known.
        support: lowest and highest number of test texts of a class.
    """

    task: str
    plot: Figure
    is_cut: bool
    table: Table
    confusions: Table | None
    support: tuple[int, int]


def class_views(report: Mapping[str, Any]) -> list[ClassView]:
    """One view per task with classes, in the order of the report."""
    views = (_view(report, task) for task in report.get("tasks") or {})
    return [view for view in views if view]


def _view(report: Mapping[str, Any], task: str) -> ClassView | None:
    facts = _figures(report.get("student"), task)
    student: PerClass = facts.get("per_class") or []
    if not student:
        return None
    teacher: PerClass = _figures(report.get("teacher"), task).get("per_class") or []
    supports = [c["support"] for c in student]
    return ClassView(
        task=task,
        plot=f1_per_class(student, teacher),
        is_cut=len(student) > _MOST_DRAWN,
        table=_class_table(student, teacher),
        confusions=_confusions(facts.get("confusion"), [c["label"] for c in student]),
        support=(min(supports), max(supports)),
    )


def _figures(model: Mapping[str, Any] | None, task: str) -> Mapping[str, Any]:
    return ((model or {}).get("tasks") or {}).get(task) or {}


def f1_per_class(student: PerClass, teacher: PerClass) -> Figure:
    """F1 of student and teacher, one line per class, the student's worst on top; at most thirty.

    Args:
        student: mappings with label, f1 and support; at least one.
        teacher: the same; may be empty.
    """
    drawn = sorted(student, key=lambda c: c["f1"])[:_MOST_DRAWN][::-1]
    taught = {c["label"]: c["f1"] for c in teacher}
    pairs = [(place, c["f1"], taught[c["label"]]) for place, c in enumerate(drawn) if c["label"] in taught]
    look = layout("", "F1 on the test split", height=110 + 26 * len(drawn), legend_entries=2)
    lowest = min([c["f1"] for c in drawn] + [other for _, _, other in pairs])
    look["xaxis"]["range"] = [max(-0.02, lowest - 0.08), 1.02]
    look["yaxis"] |= {
        "tickvals": list(range(len(drawn))),
        "ticktext": [f"{shown(str(c['label']))} ({c['support']})" for c in drawn],
        "range": [-0.7, len(drawn) - 0.3],
        "showgrid": False,
    }
    dots = [_dots("student", [(place, c["f1"]) for place, c in enumerate(drawn)])]
    if pairs:
        dots = [_links(pairs), _dots("teacher", [(place, other) for place, _, other in pairs]), *dots]
    return {"data": dots, "layout": look}


def _links(pairs: Sequence[tuple[int, float, float]]) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for _, own, other in pairs for x in (own, other, None)],
        "y": [y for place, _, _ in pairs for y in (place, place, None)],
        "line": {"color": FAINT, "width": 2},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _dots(name: str, points: Sequence[tuple[int, float]]) -> Figure:
    symbol = "circle-open" if name == "teacher" else "circle"
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [value for _, value in points],
        "y": [place for place, _ in points],
        "marker": {
            "size": 10,
            "color": colour(name),
            "symbol": symbol,
            "line": {"width": 2, "color": colour(name)},
        },
        "hovertemplate": f"{name}: %{{x:.3f}}<extra></extra>",
    }


def _class_table(student: PerClass, teacher: PerClass) -> Table:
    taught = {c["label"]: c["f1"] for c in teacher}
    return Table(
        columns=("class", "test texts", "precision", "recall", "student F1", "teacher F1"),
        rows=tuple(
            (
                str(c["label"]),
                count(c["support"]),
                figure(c["precision"]),
                figure(c["recall"]),
                figure(c["f1"]),
                figure(taught[c["label"]]) if c["label"] in taught else MISSING,
            )
            for c in student
        ),
    )


def _confusions(matrix: Sequence[Sequence[int]] | None, labels: Sequence[str]) -> Table | None:
    """The largest entries beside the diagonal of [label][answer]."""
    cells = [
        (number, labels[row], labels[column], sum(numbers))
        for row, numbers in enumerate(matrix or [])
        for column, number in enumerate(numbers)
        if row != column and number > 0
    ]
    largest = sorted(cells, key=lambda cell: -cell[0])[:_MOST_CONFUSIONS]
    if not largest:
        return None
    return Table(
        columns=("label", "student's answer", "texts"),
        rows=tuple((str(label), str(answer), f"{number} of {total}") for number, label, answer, total in largest),
        text_columns=2,
    )
