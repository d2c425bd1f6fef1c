"""Accuracy against latency: one point per variant, the picture of what was traded for what."""

from __future__ import annotations

from compressor.report.overview import Overview, Score, Variant
from compressor.report.plots import QUIET, Figure, colour, layout, shown
from compressor.report.table import score_text
from compressor.report.wording import megabytes, milliseconds, plain_metric

_LARGEST_MARKER = 46
_SMALLEST_MARKER = 9


def accuracy_against_latency(view: Overview, task: str) -> Figure | None:
    """One point per timed variant: area by bytes, bars for the 95% interval; controls as dashed lines.

    Returns:
        None when no variant has both a figure and a latency.
    """
    timed = sorted((v for v in view.variants if v.p50_ms and task in v.scores), key=lambda v: v.p50_ms or 0.0)
    if not timed:
        return None
    largest = max((v.num_bytes or 0 for v in timed), default=0) or 1
    title = _title(timed[0].scores[task].metric)
    drawn = layout(f"p50 of one call in ms, {view.point}", title, height=420)
    right = max(v.p50_ms or 0.0 for v in timed) * 1.18
    drawn["xaxis"]["range"] = [0, right]
    drawn["annotations"] = [_label(variant, task, is_above=place % 2 == 0) for place, variant in enumerate(timed)]
    controls = [control for control in view.of_kind("control") if task in control.scores]
    drawn["annotations"] += [_line_label(control, task) for control in controls]
    lines = [_line(control, task, right) for control in controls]
    return {"data": [*lines, *(_point(variant, task, largest) for variant in timed)], "layout": drawn}


def _title(metric: str) -> str:
    return f"{plain_metric(metric)} on the test split"


def _point(variant: Variant, task: str, largest: int) -> Figure:
    score = variant.scores[task]
    tone = colour(variant.precision or variant.kind)
    diameter = max(_SMALLEST_MARKER, _LARGEST_MARKER * ((variant.num_bytes or 0) / largest) ** 0.5)
    low, high = _ends(score)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": shown(variant.name),
        "x": [variant.p50_ms],
        "y": [score.value],
        "marker": {"size": diameter, "color": tone, "opacity": 0.8, "line": {"width": 1, "color": "#ffffff"}},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high - score.value],
            "arrayminus": [score.value - low],
            "color": tone,
            "thickness": 1.6,
            "width": 5,
        },
        "hovertemplate": (
            f"<b>{shown(variant.name)}</b><br>{score_text(score)}<br>{milliseconds(variant.p50_ms)} ms, "
            f"{megabytes(variant.num_bytes)}<extra></extra>"
        ),
    }


def _label(variant: Variant, task: str, *, is_above: bool) -> Figure:
    """The variant's name and size beyond an end of its bar; neighbours take turns above and below."""
    low, high = _ends(variant.scores[task])
    size = f"{megabytes(variant.num_bytes)}, " if variant.num_bytes else ""
    return {
        "x": variant.p50_ms,
        "y": high if is_above else low,
        "text": f"<b>{shown(variant.name)}</b><br>{size}{milliseconds(variant.p50_ms)} ms",
        "font": {"size": 12, "color": colour(variant.precision or variant.kind)},
        "showarrow": False,
        "yanchor": "bottom" if is_above else "top",
        "yshift": 6 if is_above else -6,
    }


def _line(control: Variant, task: str, right: float) -> Figure:
    """A control's level across the whole plot: it was not timed, being the student's like."""
    score = control.scores[task]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": shown(control.name),
        "x": [0, right],
        "y": [score.value, score.value],
        "line": {"color": colour("control"), "width": 1.2, "dash": "dash"},
        "hovertemplate": f"<b>{shown(control.name)}</b><br>{score_text(score)}<extra></extra>",
    }


def _line_label(control: Variant, task: str) -> Figure:
    score = control.scores[task]
    return {
        "xref": "paper",
        "x": 1,
        "xanchor": "right",
        "y": score.value,
        "yanchor": "bottom",
        "text": f"{shown(control.name)}, {score_text(score)}",
        "font": {"size": 11, "color": QUIET},
        "showarrow": False,
    }


def _ends(score: Score) -> tuple[float, float]:
    """The interval, or the value itself where there is none."""
    low = score.value if score.low is None else score.low
    return low, score.value if score.high is None else score.high
