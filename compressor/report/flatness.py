"""What averaging did: the loss around swa's average and its last iterate, between the two, and how both score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.report.plots import Figure, layout
from compressor.report.table import Table
from compressor.report.wording import MISSING, compact, figure, interval, is_known, listed, plain_metric

SPLITS = ("train", "test")
_CENTRES = {"average": ("the average", "#0072b2", "solid"), "last": ("the last iterate", "#d55e00", "dash")}
_BAND = (10, 90)


@dataclass(frozen=True)
class FlatnessView:
    """The section's content.

    Attributes:
        table: both centres and the validation's choice, on validation and test.
        around: the rise of the loss around both, on train and on test.
        line: the loss between them.
        seen: what the drawings show, a sentence each.
        sizes: how much was looked at.
    """

    table: Table
    around: tuple[Figure, ...]
    line: Figure
    seen: tuple[str, ...]
    sizes: str


def flatness_view(report: Mapping[str, Any]) -> FlatnessView | None:
    """The section of a report whose student was trained by swa; None for another."""
    facts = report.get("flatness")
    if not facts:
        return None
    return FlatnessView(
        table=_table(facts, _history(report), is_only=len(facts["tasks"]) == 1),
        around=tuple(_around(facts, split) for split in SPLITS),
        line=_line(facts),
        seen=(*(_rise_in_words(facts, split) for split in SPLITS), _line_in_words(facts)),
        sizes=_sizes(facts),
    )


def _history(report: Mapping[str, Any]) -> Mapping[str, Any]:
    training = ((report.get("student") or {}).get("training") or {}).get("") or {}
    return training.get("swa") or {}


def _table(facts: Mapping[str, Any], history: Mapping[str, Any], *, is_only: bool) -> Table:
    rows = tuple(row for task, scores in facts["tasks"].items() for row in _rows(task, scores, history))
    metrics = " / ".join(dict.fromkeys(plain_metric(scores["metric"]) for scores in facts["tasks"].values()))
    columns = ("task", "weights", "validation loss", f"validation: {metrics}", f"test: {metrics}")
    if is_only:
        return Table(columns[1:], tuple(row[1:] for row in rows))
    return Table(columns, rows, text_columns=2)


def _rows(task: str, scores: Mapping[str, Any], history: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    chosen = history.get("selected")
    names = {"always the average": "average", "always the last iterate": "last"}
    if chosen in _CENTRES:
        names[f"selected by validation: {_CENTRES[chosen][0]}"] = chosen
    for name, centre in names.items():
        validation = history.get(f"always_{centre}") or {}
        metric = scores["metric"]
        shown = (figure(validation.get(f"{task}_loss")), figure(validation.get(f"{task}_{metric}")))
        yield task, name, *shown, _with_interval(scores[centre])
    difference = scores["difference"]
    yield task, "average minus last, same test texts", MISSING, MISSING, _signed(difference)


def _with_interval(score: Mapping[str, Any]) -> str:
    return f"{figure(score['value'])} {interval(score['low'], score['high'])}".strip()


def _signed(found: Mapping[str, float]) -> str:
    if not is_known(found["low"]):
        return f"{found['value']:+.3f}"
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _around(facts: Mapping[str, Any], split: str) -> Figure:
    """Mean rise over the directions, with the band that holds the middle four fifths of them."""
    distances = list(facts["distances"])
    traces: list[Figure] = []
    for centre, (name, colour, dash) in _CENTRES.items():
        rise = np.array(facts[centre]["rise"][split])
        low, high = np.percentile(rise, _BAND, axis=0)
        traces.append(_band(distances, low.tolist(), high.tolist(), colour))
        traces.append(_curve(f"around {name}", distances, rise.mean(axis=0).tolist(), colour, dash))
    drawn = layout("distance, in norms of each tensor", f"rise of the {split} loss", height=320, legend_entries=2)
    return {"data": traces, "layout": drawn}


def _band(across: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*across, *reversed(across)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": f"{colour}26",
        "line": {"width": 0},
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _curve(name: str, across: Sequence[float], up: Sequence[float], colour: str, dash: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(across),
        "y": list(up),
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"size": 6},
        "hovertemplate": f"{name}: %{{y:.4g}} at %{{x:.3g}}<extra></extra>",
    }


def _line(facts: Mapping[str, Any]) -> Figure:
    line = facts["line"]
    looks = {"train": ("#5c6370", "dot"), "test": ("#0072b2", "solid")}
    traces = [_curve(f"{split} loss", line["positions"], line[split], *looks[split]) for split in SPLITS]
    drawn = layout("position", "loss on the line", height=320, legend_entries=2)
    ends = {"last iterate": 0.0, "average": 1.0}
    drawn["xaxis"] |= {
        "tickvals": [-0.5, *ends.values(), 1.5],
        "ticktext": ["-0.5", *ends, "1.5"],
        "title": {"text": ""},
    }
    drawn["shapes"] = [
        {
            "type": "line",
            "x0": at,
            "x1": at,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": "#c3c8d1", "width": 1},
        }
        for at in ends.values()
    ]
    return {"data": traces, "layout": drawn}


def _rise_in_words(facts: Mapping[str, Any], split: str) -> str:
    """At the largest distance: how much the loss rises around both, and in how many directions less around which."""
    farthest = max(facts["distances"])
    ends = [place for place, distance in enumerate(facts["distances"]) if abs(distance) == farthest]
    average, last = (np.array(facts[name]["rise"][split])[:, ends].mean(axis=1) for name in _CENTRES)
    return (
        f"At distance {compact(farthest)} the {split} loss changes by {average.mean():+.3f} around the average and by "
        f"{last.mean():+.3f} around the last iterate (means over the directions, forth and back); in "
        f"{int((average < last).sum())} of {len(average)} directions it rises less around the average."
    )


def _line_in_words(facts: Mapping[str, Any]) -> str:
    line = facts["line"]
    parts = []
    for split in SPLITS:
        values = dict(zip(line["positions"], line[split], strict=True))
        lowest = min(values, key=lambda position: values[position])
        where = {0.0: "at the last iterate", 1.0: "at the average"}.get(lowest, f"at position {lowest:g}")
        parts.append(
            f"the {split} loss is {values[1.0]:.3f} at the average and {values[0.0]:.3f} at the last iterate (lowest "
            f"of the points: {values[lowest]:.3f} {where})"
        )
    return f"On the line, {listed(parts)}."


def _sizes(facts: Mapping[str, Any]) -> str:
    rows = listed([f"{rows[split]} {split} texts" for rows in facts["rows"].values() for split in SPLITS])
    several = " (per task)" if len(facts["rows"]) > 1 else ""
    radii = listed([compact(distance) for distance in facts["distances"] if distance > 0])
    return (
        f"{facts['num_directions']} random directions, seed {facts['seed']}, distances ±{radii}, "
        f"{rows}{several}; the same texts and directions for both. The bands hold the middle four fifths of the "
        "directions. The loss is the one against the gold labels."
    )
