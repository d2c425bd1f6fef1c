"""The comparison's drawings: every training as a point, every difference with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.comparison.results import GAIN, LOSS
from compressor.comparison.wording import difference_text, verdict_text
from compressor.report.plots import COLOURS, FAINT, INK, QUIET, Figure, layout, shown
from compressor.report.wording import figure, plain_metric

_ROW, _FRAME = 38, 100
_TONES = {GAIN: COLOURS["fp32"], LOSS: COLOURS["int8"]}

Found = Mapping[str, Any]


def seeds_drawing(result: Found, task: str) -> Figure:
    """Every training of one task as a point; a line joins the trainings of one seed, a bar marks the mean.

    Lines that run alike say that the seed, shared by all methods, explains much: that is what pairing takes off.
    """
    arms = [arm for arm in result["arms"] if task in arm["tasks"]]
    rows = list(range(len(arms)))
    metric = plain_metric(result["tasks"][task]["metric"])
    drawn = _layout(f"{metric} on the test split", "Every training, seeds joined by lines", arms_shown(arms), rows)
    lines = [_seed_line(arms, task, seed) for seed in result["seeds"]]
    return {"data": [*lines, *(_mean_bar(arm, task, row) for row, arm in enumerate(arms))], "layout": drawn}


def arms_shown(arms: Sequence[Found]) -> list[str]:
    """Names on the axis."""
    return [shown(arm["label"]) for arm in arms]


def _layout(across: str, up: str, names: Sequence[str], rows: Sequence[int]) -> Figure:
    drawn = layout(across, up, height=_FRAME + _ROW * len(names))
    drawn["yaxis"] |= {
        "tickvals": list(rows),
        "ticktext": list(names),
        "range": [len(names) - 0.5, -0.5],
        "tickfont": {"color": INK},
    }
    drawn["xaxis"] |= {"nticks": 6}
    return drawn


def _seed_line(arms: Sequence[Found], task: str, seed: int) -> Figure:
    values = [arm["tasks"][task]["per_seed"].get(str(seed)) for arm in arms]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"seed {seed}",
        "showlegend": False,
        "x": values,
        "y": list(range(len(arms))),
        "line": {"color": FAINT, "width": 1},
        "marker": {"size": 8, "color": COLOURS["student"], "opacity": 0.75},
        "hovertemplate": f"seed {seed}: %{{x:.4f}}<extra></extra>",
    }


def _mean_bar(arm: Found, task: str, row: int) -> Figure:
    mean = arm["tasks"][task]["mean"]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": shown(arm["label"]),
        "showlegend": False,
        "x": [mean, mean],
        "y": [row - 0.3, row + 0.3],
        "line": {"color": INK, "width": 3},
        "hovertemplate": f"{shown(arm['label'])}: mean {figure(mean)}<extra></extra>",
    }


def differences_drawing(result: Found, task: str, baseline: str) -> Figure | None:
    """The differences to one control with their intervals; a pale bar is what could not have been seen."""
    entries = [
        entry
        for entry in result["comparisons"]
        if entry["task"] == task and entry["baseline"] == baseline and "difference" in entry
    ]
    order = [arm["label"] for arm in result["arms"]]
    entries.sort(key=lambda entry: order.index(entry["method"]))
    if not entries:
        return None
    metric = plain_metric(result["tasks"][task]["metric"])
    names = [f"<b>{shown(e['method'])}</b>" if e["role"] == "main" else shown(e["method"]) for e in entries]
    title = f"Difference to {shown(baseline)}, 95% intervals"
    drawn = _layout(f"{metric}: method minus {shown(baseline)}", title, names, range(len(entries)))
    drawn["shapes"] = [
        *(_unseen(entry, row) for row, entry in enumerate(entries) if entry["smallest_visible"]),
        _zero(),
    ]
    return {"data": [_interval(entry, row) for row, entry in enumerate(entries)], "layout": drawn}


def _unseen(entry: Found, row: int) -> Figure:
    reach = entry["smallest_visible"]
    return {
        "type": "rect",
        "layer": "below",
        "x0": -reach,
        "x1": reach,
        "y0": row - 0.32,
        "y1": row + 0.32,
        "fillcolor": "#eef0f4",
        "line": {"width": 0},
    }


def _zero() -> Figure:
    return {
        "type": "line",
        "layer": "below",
        "x0": 0,
        "x1": 0,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": QUIET, "width": 1},
    }


def _interval(entry: Found, row: int) -> Figure:
    tone = _TONES.get(entry["verdict"], COLOURS["teacher"])
    name = shown(entry["method"])
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "showlegend": False,
        "x": [entry["difference"]],
        "y": [row],
        "marker": {"size": 10, "color": tone, "symbol": "diamond" if entry["role"] == "main" else "circle"},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [entry["high"] - entry["difference"]],
            "arrayminus": [entry["difference"] - entry["low"]],
            "color": tone,
            "thickness": 1.8,
            "width": 5,
        },
        "hovertemplate": f"<b>{name}</b><br>{difference_text(entry)}<br>{verdict_text(entry)}<extra></extra>",
    }
