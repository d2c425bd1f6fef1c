"""May its confidence be believed? Calibration figures of every model, and the reliability of the one that is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report.plots import FAINT, GRID, QUIET, Figure, layout
from compressor.report.table import Table
from compressor.report.wording import count, figure, interval, listed

_BEFORE, _AFTER = "#8a909c", "#0072b2"
_LARGEST_DOT, _SMALLEST_DOT = 22, 5
_COUNTS_SHARE = 0.2

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class CalibrationView:
    """What the page shows of one task.

    Attributes:
        task: its name.
        seen: sentences that say what table and drawing mean.
        table: every model.
        plot: confidence against the share of right answers, before and after the temperature.
        drawn: which model is drawn, in words.
    """

    task: str
    seen: tuple[str, ...]
    table: Table
    plot: Figure
    drawn: str


def calibration_views(report: Mapping[str, Any]) -> list[CalibrationView]:
    """One view per task with probabilities, in the order of the report."""
    tasks = report.get("tasks") or {}
    found = {task: facts for task, facts in (report.get("calibration") or {}).items() if facts}
    return [_view(task, facts, (tasks.get(task) or {}).get("type")) for task, facts in found.items()]


def uncalibrated_tasks(report: Mapping[str, Any]) -> list[str]:
    """Tasks that have no probabilities: regressions."""
    return [task for task, facts in (report.get("calibration") or {}).items() if not facts]


def _view(task: str, facts: Facts, kind: str | None) -> CalibrationView:
    each = "label" if kind == "multilabel" else "answer"
    sentences = [_verdict(facts, each), _temperature(facts), _unanswered(facts)]
    return CalibrationView(
        task=task,
        seen=tuple(sentence for sentence in sentences if sentence),
        table=_table(facts["models"]),
        plot=reliability_diagram(facts, each),
        drawn=f"the {facts['reliability']['model']} student",
    )


def _table(models: Sequence[Facts]) -> Table:
    rows = tuple(
        (
            _called(model["model"]),
            f"{model['temperature']:.3g}",
            *(_with_interval(model[name]) for name in ("nll", "brier", "ece")),
            _by_chance(model["expected_ece"]),
            _with_interval(model["ece_equal_mass"]),
            _by_chance(model["expected_ece_equal_mass"]),
        )
        for model in models
    )
    columns = ("model", "temperature", "NLL, nats", "Brier", "ECE", "by chance", "ECE, equal mass", "by chance")
    return Table(columns, rows)


def _called(model: str) -> str:
    words = {"teacher": "teacher", "student": "student, torch"}
    return words.get(model, model if model.startswith("control") else f"student, ONNX {model}")


def _with_interval(found: Mapping[str, float]) -> str:
    return f"{figure(found['value'])} {interval(found['low'], found['high'])}".strip()


def _by_chance(found: Mapping[str, float]) -> str:
    return f"{figure(found['value'])}, ≤ {figure(found['high'])}"


def _served(facts: Facts) -> Facts | None:
    """The figures of the model that is drawn, as it is served."""
    return next((model for model in facts["models"] if model["model"] == facts["reliability"]["model"]), None)


def _verdict(facts: Facts, each: str) -> str:
    """Whether its probabilities can be told from believable ones, and in which direction they err."""
    served = _served(facts)
    if served is None:
        return ""
    ece, chance = served["ece"]["value"], served["expected_ece"]["high"]
    measured = f"ECE {figure(ece)}; a perfectly calibrated model would show up to {figure(chance)} on so few texts"
    if ece <= chance:
        return (
            f"As it is served, its confidence cannot be told from a perfectly calibrated one on these "
            f"{count(facts['rows'])} test texts ({measured})."
        )
    claimed, right = _means(facts["reliability"]["after"])
    too = "high" if claimed > right else "low"
    return (
        f"As it is served, its confidence is too {too}: {claimed:.1%} on average, and {right:.1%} "
        f"{'of the labels it names so are there' if each == 'label' else 'of its answers are right'} ({measured})."
    )


def _means(bins: Sequence[Facts]) -> tuple[float, float]:
    """Mean confidence and share of right answers over all bins."""
    total = sum(item["count"] for item in bins) or 1
    return (
        sum(item["count"] * item["confidence"] for item in bins) / total,
        sum(item["count"] * item["right"] for item in bins) / total,
    )


def _temperature(facts: Facts) -> str:
    fit = facts.get("fit")
    if not fit:
        return "No temperature was fitted: the recipe says export.temperature: none."
    if fit.get("gain") is None:
        return f"Temperature {fit['temperature']:.3g}, {fit['reason']}."
    gain = fit["gain"]
    measured = (
        f"fitted {fit['fitted']:.3g} [{fit['low']:.3g}, {fit['high']:.3g}] on {count(fit['rows'])} validation texts; "
        f"on those outside each fit the NLL goes from {figure(fit['nll_before'])} to {figure(fit['nll_after'])}, "
        f"a gain of {gain['value']:.4f} [{gain['low']:.4f}, {gain['high']:.4f}]"
    )
    return f"Temperature {fit['temperature']:.3g}, {fit['reason']} ({measured}). It changes no answer."


def _unanswered(facts: Facts) -> str:
    missing = facts.get("unanswered")
    return f"Without figures, because some texts have no answer: {listed(missing)}." if missing else ""


def reliability_diagram(facts: Facts, each: str) -> Figure:
    """Confidence against the share of right answers, with the number of answers below.

    Args:
        facts: of one task.
        each: what is counted: answer, or label where a text may have several.
    """
    found = facts["reliability"]
    series = [("as it is served", found["after"], _AFTER, "circle")]
    if facts["temperature"] != 1.0:
        series = [("without temperature", found["before"], _BEFORE, "circle-open"), *series]
    title = "share that is there" if each == "label" else "share that is right"
    drawn = layout("confidence", title, height=460, legend_entries=len(series))
    drawn["xaxis"] |= {"range": [0, 1.02], "anchor": "y2"}
    drawn["yaxis"] |= {"range": [-0.03, 1.05], "domain": [_COUNTS_SHARE + 0.06, 1.0]}
    drawn["yaxis2"] = {
        **drawn["yaxis"],
        "domain": [0.0, _COUNTS_SHARE],
        "range": None,
        "rangemode": "tozero",
        "gridcolor": GRID,
        "nticks": 3,
        "title": {"text": f"{each}s", "font": {"color": QUIET, "size": 12}},
    }
    drawn["bargap"] = 0.15
    dots = [_dots(name, bins, colour, symbol) for name, bins, colour, symbol in series]
    return {"data": [_diagonal(), *dots, *(_bars(*one[:3]) for one in series)], "layout": drawn}


def _diagonal() -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 1],
        "y": [0, 1],
        "line": {"color": FAINT, "width": 1.5, "dash": "dash"},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _dots(name: str, bins: Sequence[Facts], colour: str, symbol: str) -> Figure:
    """One dot per bin, its area by the number of answers, its bar the 95% interval."""
    most = max((item["count"] for item in bins), default=1)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [item["confidence"] for item in bins],
        "y": [item["right"] for item in bins],
        "line": {"color": colour, "width": 1},
        "marker": {
            "size": [max(_SMALLEST_DOT, _LARGEST_DOT * (item["count"] / most) ** 0.5) for item in bins],
            "color": colour,
            "symbol": symbol,
            "opacity": 0.85,
        },
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [item["high"] - item["right"] for item in bins],
            "arrayminus": [item["right"] - item["low"] for item in bins],
            "color": colour,
            "thickness": 1,
            "width": 3,
        },
        "customdata": [item["count"] for item in bins],
        "hovertemplate": f"{name}: confidence %{{x:.2f}}, %{{y:.2f}} right, %{{customdata}} answers<extra></extra>",
    }


def _bars(name: str, bins: Sequence[Facts], colour: str) -> Figure:
    return {
        "type": "bar",
        "name": name,
        "x": [item["confidence"] for item in bins],
        "y": [item["count"] for item in bins],
        "width": 0.02,
        "marker": {"color": colour, "opacity": 0.6},
        "yaxis": "y2",
        "showlegend": False,
        "hovertemplate": f"{name}: %{{y}} answers with confidence %{{x:.2f}}<extra></extra>",
    }
