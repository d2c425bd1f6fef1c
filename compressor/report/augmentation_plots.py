"""The drawings of added texts: episodes of a selector, kept texts among candidates, cheap against full rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from compressor.report.plots import FAINT, Figure, colour, layout
from compressor.report.wording import is_known

_HEIGHT = 320
_WINDOWS = 20

Facts = Mapping[str, Any]


def smoothed(values: Sequence[float]) -> list[float]:
    """The running mean of a twentieth of the values to either side, of fewer at the ends.

    Args:
        values: one per episode, in order.

    Returns:
        As many values.
    """
    half = max(1, len(values) // _WINDOWS)
    return [float(np.mean(values[max(0, place - half) : place + half + 1])) for place in range(len(values))]


def over_episodes(curve: Sequence[Facts], key: str, title: str) -> Figure | None:
    """One figure of every episode as a faint point, and their running mean.

    Args:
        curve: one mapping per episode, with `episode` and the figure.
        key: of the figure; episodes without it are left out.
        title: of the drawing.

    Returns:
        None where no episode has it.
    """
    rows = [row for row in curve if is_known(row.get(key))]
    if not rows:
        return None
    episodes = [row.get("episode", place) for place, row in enumerate(rows, start=1)]
    values = [row[key] for row in rows]
    drawn = layout("episode", title, height=_HEIGHT, legend_entries=2)
    drawn["yaxis"] |= {"zeroline": True, "zerolinecolor": FAINT}
    return {
        "data": [
            _dots("one episode", episodes, values, FAINT, 4),
            {
                "type": "scatter",
                "mode": "lines",
                "name": "running mean",
                "x": episodes,
                "y": smoothed(values),
                "line": {"color": colour("student"), "width": 2},
                "hovertemplate": "about episode %{x}: %{y:.4g}<extra></extra>",
            },
        ],
        "layout": drawn,
    }


def _dots(name: str, across: Sequence[float], up: Sequence[float], filled: str, size: int) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(across),
        "y": list(up),
        "marker": {"color": filled, "size": size},
        "hovertemplate": f"{name}: %{{y:.4g}} at %{{x:.4g}}<extra></extra>",
    }


def histogram(found: Facts, across: str, up: str) -> Figure:
    """Kept texts in front of all candidates, so that what is left of a bar was not kept.

    Args:
        found: `edges`, and one number fewer of `candidates` and of `kept`.
        across: title of the x axis.
        up: title of the drawing.
    """
    drawn = layout(across, up, height=_HEIGHT, legend_entries=2)
    drawn |= {"barmode": "overlay", "bargap": 0}
    bars = [
        _bars("candidates", found["edges"], found["candidates"], FAINT),
        _bars("kept", found["edges"], found["kept"], colour("student")),
    ]
    return {"data": bars, "layout": drawn}


def _bars(name: str, edges: Sequence[float], counts: Sequence[int], filled: str) -> Figure:
    bins = list(pairwise(edges))
    return {
        "type": "bar",
        "name": name,
        "x": [(low + high) / 2 for low, high in bins],
        "y": list(counts),
        "width": [0.92 * (high - low) for low, high in bins],
        "marker": {"color": filled},
        "customdata": [f"{low:.3g} to {high:.3g}" for low, high in bins],
        "hovertemplate": f"{name}, %{{customdata}}: %{{y}}<extra></extra>",
    }


def cheap_against_full(pairs: Sequence[Sequence[float]]) -> Figure:
    """A dot per episode that was repeated: the reward of the head alone across, that of the whole student up.

    Args:
        pairs: [cheap, full] each.
    """
    cheap, full = ([pair[side] for pair in pairs] for side in (0, 1))
    drawn = layout("cheap reward: the head alone", "full reward: the whole student", height=_HEIGHT)
    for axis in ("xaxis", "yaxis"):
        drawn[axis] |= {"zeroline": True, "zerolinecolor": FAINT}
    return {"data": [_dots("reward", cheap, full, colour("student"), 8)], "layout": drawn}
