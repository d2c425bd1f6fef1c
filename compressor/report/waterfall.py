"""What each step from the padded teacher to the bundle is worth, and how near the end is to what this CPU can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

from compressor.report.limits import limits_table, seen_in_limits
from compressor.report.overview import Overview
from compressor.report.plots import Figure, colour, layout, shown
from compressor.report.table import Table, score_text, score_title
from compressor.report.wording import MISSING, compact, count, number_of, times

FASTFORMERS = 66.6
"""Kim and Hassan Awadalla (2020), FastFormers, arXiv:2010.13382: BoolQ on a CPU, over their own unpadded baseline."""

SOURCE = "FastFormers (Kim and Hassan Awadalla 2020, arXiv:2010.13382)"
_REFERENCE = "FastFormers: 66.6× (theirs, see below)"
_TITLES = {
    "padded": "padded torch teacher",
    "torch": "best torch teacher",
    "student": "best torch student",
}
_BASELINE = "torch"
_FACTORS = ("step", "way", "texts/s", "over the step before", "over the start", "over torch's best")
_COST = "CPU-hours per million texts"

Report = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class WaterfallView:
    """What the section shows.

    Attributes:
        plot: every step's throughput over the unpadded teacher's.
        table: the steps with factors, quality and cost.
        limits: the artifacts beside the physical limit; None where nothing was counted.
        seen: what the figures say, in sentences.
        conditions: how it was measured, in one sentence.
        notes: what spoke against the measurement.
    """

    plot: Figure
    table: Table
    limits: Table | None
    seen: tuple[str, ...]
    conditions: str
    notes: tuple[str, ...]


def waterfall_view(report: Report, view: Overview) -> WaterfallView | None:
    """The section's content; None where the waterfall was left out."""
    found = report.get("waterfall")
    if not found:
        return None
    return WaterfallView(
        plot=_plot(found["steps"]),
        table=_table(report, view),
        limits=limits_table(found),
        seen=(*_seen_in_steps(found), *seen_in_limits(found)),
        conditions=_conditions(found),
        notes=tuple(found.get("notes") or ()),
    )


def throughput_in_words(report: Report) -> str:
    """One line for the answer at a glance: over the teacher's best and, beside it, over the padded teacher."""
    steps = (report.get("waterfall") or {}).get("steps") or []
    if not steps or not steps[-1].get("over_baseline"):
        return ""
    last = steps[-1]
    return (
        f"texts per second: {times(last['over_baseline']['value'])} torch's best teacher, "
        f"{times(last['overall']['value'])} the padded one"
    )


def step_title(step: Row) -> str:
    """A step in words."""
    if step["name"] == "lanes":
        return f"student, ONNX {step['subject']}, in lanes"
    return _TITLES.get(step["name"], f"student, ONNX {step['subject']}")


def factor_text(ratio: Row | None) -> str:
    """`3.21× [3.10, 3.35]`; the start of a comparison has none."""
    if not ratio:
        return MISSING
    ends = f" [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio["confidence"] >= 0.95 else ""
    return f"{ratio['value']:.2f}×{ends}"


def steps_table(found: Row) -> Table | None:
    """The steps with factors and cost alone, for the terminal; None without any."""
    rows = tuple(
        (
            step_title(step),
            step["way"],
            count(step["texts_per_second"]),
            factor_text(step["factor"]),
            factor_text(step["overall"]),
            _over_best(step),
            compact(step["cpu_hours_per_million"]),
        )
        for step in found.get("steps") or ()
    )
    return Table((*_FACTORS, _COST), rows, text_columns=2) if rows else None


def _table(report: Report, view: Overview) -> Table:
    """`steps_table` with the quality of every step and, where a price is known, what a million texts cost."""
    found = report["waterfall"]
    plain = steps_table(found) or Table((), ())
    price = ((report.get("recipe") or {}).get("benchmark") or {}).get("price_per_cpu_hour")
    metrics = {task: score.metric for variant in view.variants for task, score in variant.scores.items()}
    scores = [score_title(task, metrics.get(task, ""), is_only=len(view.tasks) == 1) for task in view.tasks]
    return Table(
        columns=(*plain.columns, *(("price per million texts",) if price else ()), *scores),
        rows=tuple(
            (
                *cells,
                *((compact(step["cpu_hours_per_million"] * price),) if price else ()),
                *_scores(step, view),
            )
            for cells, step in zip(plain.rows, found["steps"], strict=True)
        ),
        text_columns=2,
        marks=tuple("default" if step is found["steps"][-1] else "" for step in found["steps"]),
    )


def _scores(step: Row, view: Overview) -> list[str]:
    """The figures of the model whose answers a step gives."""
    subject = next((v for v in view.variants if (v.precision or v.kind) == step["subject"]), None)
    return [score_text(subject.scores.get(task) if subject else None) for task in view.tasks]


def _over_best(step: Row) -> str:
    return "baseline" if step["name"] == _BASELINE else factor_text(step["over_baseline"])


def _plot(steps: Sequence[Row]) -> Figure:
    drawn = layout(
        "times the best torch teacher (log scale)",
        "Texts per second over the best torch teacher's",
        height=110 + 44 * len(steps),
        legend_entries=2,
    )
    values = [_over_baseline(step) for step in steps]
    titles = [shown(step_title(step)) for step in steps]
    drawn["xaxis"] |= {"type": "log", "range": _log_range(values), "dtick": 1}
    drawn["yaxis"] |= {"autorange": "reversed", "type": "category"}
    drawn["margin"]["r"] = 24
    return {"data": [_points(steps, values, titles), _reference(titles)], "layout": drawn}


def _points(steps: Sequence[Row], values: Sequence[float], titles: Sequence[str]) -> Figure:
    rates = [count(step["texts_per_second"]) for step in steps]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "measured here",
        "x": list(values),
        "y": list(titles),
        "text": [f" {times(value)}, {rate}/s" for value, rate in zip(values, rates, strict=True)],
        "textposition": "middle right",
        "textfont": {"size": 12},
        "marker": {"size": 11, "color": [colour(step["subject"]) for step in steps]},
        "hovertemplate": "%{y}<br>%{text}<extra></extra>",
    }


def _reference(titles: Sequence[str]) -> Figure:
    """A line from the first to the last step, marked as another's figure."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _REFERENCE,
        "x": [FASTFORMERS, FASTFORMERS],
        "y": [titles[0], titles[-1]],
        "line": {"color": colour("control"), "width": 1.4, "dash": "dash"},
        "hovertemplate": f"{shown(SOURCE)}<extra></extra>",
    }


def _over_baseline(step: Row) -> float:
    return float((step["over_baseline"] or {"value": 1.0})["value"])


def _log_range(values: Sequence[float]) -> list[float]:
    """From below the smallest to room for a label beyond the largest, as powers of ten."""
    return [log10(min(values)) - 0.15, log10(max(*values, FASTFORMERS)) + 0.9]


def _seen_in_steps(found: Row) -> Iterator[str]:
    steps: Sequence[Row] = found["steps"]
    padded, best, last = steps[0], steps[1], steps[-1]
    yield (
        f"The {step_title(last)} answers {count(last['texts_per_second'])} texts per second: "
        f"{factor_text(last['over_baseline'])} torch's best unpadded teacher ({best['way']}), and "
        f"{factor_text(last['overall'])} the padded one. The {times(best['factor']['value'])} between these two are "
        f"padding left out ({found['mean_tokens']:.0f} tokens on average instead of {found['max_length']}), "
        "which any program can do: it is no compression."
    )
    largest = max(steps[2:], key=lambda step: step["factor"]["value"])
    yield f"The largest step after that is {step_title(largest)}: {factor_text(largest['factor'])}."
    yield from (
        f"{step_title(step)} is no faster than the step before it ({factor_text(step['factor'])})."
        for step in steps[2:]
        if step["factor"]["low"] <= 1
    )
    saved = padded["cpu_hours_per_million"] / last["cpu_hours_per_million"]
    yield f"A million texts take {compact(last['cpu_hours_per_million'])} CPU-hours, {times(saved)} fewer than padded."
    yield (
        f"For comparison, not measured here: {SOURCE} report 66.6× over their unpadded baseline, "
        "with accuracy going from 74.01 to 72.81 on BoolQ."
    )


def _conditions(found: Row) -> str:
    return (
        f"{found['texts']} test texts, {found['mean_tokens']:.0f} tokens on average, from text to answer on "
        f"{number_of(found['cpus'], 'CPU')}. The way named is the fastest of those tried; the figures come from "
        "rounds after the choice, the steps taking turns. Quality is that of the model or artifact on the test split, "
        "run as it is run here."
    )
