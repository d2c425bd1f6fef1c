"""Learning curves: validation figures and training loss over the epochs of every training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report.plots import Figure, colour, layout, shown
from compressor.report.wording import is_known, plain_metric

_DASHES = ("solid", "dash", "dashdot")


@dataclass(frozen=True)
class Training:
    """One training of the run.

    Attributes:
        name: of the model, with the task where it was trained for one of several.
        kind: teacher, student or control.
        tasks: that it learned.
        facts: the report's mapping, with `curve`.
        dash: of its line; tells the teachers of several tasks apart, and controls from the student.
    """

    name: str
    kind: str
    tasks: tuple[str, ...]
    facts: Mapping[str, Any]
    dash: str = "solid"

    def points(self, key: str) -> tuple[list[float], list[float]]:
        """Epochs and values of one logged figure."""
        rows = [row for row in self.facts.get("curve") or [] if is_known(row.get(key))]
        return [row.get("epoch", row.get("step", 0)) for row in rows], [row[key] for row in rows]


def trainings(report: Mapping[str, Any]) -> list[Training]:
    """Every training of the report: teachers, student, controls."""
    models = {"teacher": report.get("teacher"), "student": report.get("student")}
    models |= {f"control: {name}": facts for name, facts in (report.get("controls") or {}).items()}
    tasks = tuple(report.get("tasks") or {})
    return [
        training
        for name, facts in models.items()
        for training in _of_model(name, (facts or {}).get("training") or {}, tasks)
    ]


def _of_model(name: str, found: Mapping[str, Any], tasks: tuple[str, ...]) -> Iterator[Training]:
    for place, (task, facts) in enumerate(found.items()):
        if facts:
            is_single = not task or tasks == (task,)
            label = name if is_single else f"{name}, {task}"
            kind = name.partition(":")[0]
            dash = "dot" if kind == "control" else _DASHES[place % len(_DASHES)]
            yield Training(label, kind, (task,) if task in tasks else tasks, facts, dash)


def learning_curves(report: Mapping[str, Any]) -> list[Figure]:
    """The judged metric of every task on validation, then the training loss."""
    found = trainings(report)
    figures = [
        _drawn(
            [t for t in found if task in t.tasks],
            f"eval_{task}_{metric}",
            _metric_title(report, task, metric),
        )
        for task, metric in _judged(report)
    ]
    figures.append(_drawn(found, "loss", "training loss (each model has a loss of its own: compare shapes only)"))
    return [figure for figure in figures if figure]


def _judged(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(task, facts.get("metric") or "") for task, facts in (report.get("tasks") or {}).items()]


def _metric_title(report: Mapping[str, Any], task: str, metric: str) -> str:
    of_task = "" if len(report["tasks"]) == 1 else f"{shown(task)}: "
    return f"{of_task}{plain_metric(metric)} on the validation split"


def _drawn(found: Sequence[Training], key: str, title: str) -> Figure | None:
    traces = [_trace(training, *training.points(key)) for training in found]
    traces = [trace for trace in traces if trace["x"]]
    if not traces:
        return None
    drawn = layout("epoch", title, height=320, legend_entries=len(traces))
    drawn["xaxis"]["rangemode"] = "tozero"
    return {"data": traces, "layout": drawn}


def _trace(training: Training, epochs: list[float], values: list[float]) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(values) <= 20 else "lines",
        "name": shown(training.name),
        "x": epochs,
        "y": values,
        "line": {"color": colour(training.kind), "width": 2, "dash": training.dash},
        "marker": {"size": 6},
        "hovertemplate": f"{shown(training.name)}: %{{y:.4g}} at epoch %{{x:.2f}}<extra></extra>",
    }
