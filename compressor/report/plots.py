"""What the page's drawings share. A drawing is a plotly figure as plain data, drawn by report.js.

Texts of the user (labels, task names) are escaped, because plotly reads a little HTML in every text.
"""

from __future__ import annotations

import html
from typing import Any

Figure = dict[str, Any]

# Okabe and Ito's palette: told apart with any colour vision; every use has a label as well.
COLOURS = {
    "teacher": "#3d4451",
    "student": "#0072b2",
    "fp32": "#009e73",
    "int8": "#d55e00",
    "int8_static": "#e69f00",
    "int8_weights": "#56b4e9",
    "fp16": "#cc79a7",
    "control": "#8a909c",
}
INK, QUIET, GRID, FAINT = "#1f2430", "#5c6370", "#e7e9ee", "#c3c8d1"
_LONGEST_TEXT = 28
_LEGEND_LINE = 22
_NAMES_PER_LINE = 3


def colour(name: str) -> str:
    """The colour of a model or precision; blue for one that has none of its own."""
    return COLOURS.get(name, COLOURS["student"])


def shown(text: str) -> str:
    """A user's text as plotly may show it: cut when long, and escaped."""
    cut = text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
    return html.escape(cut, quote=False)


def layout(across: str, up: str, *, height: int, legend_entries: int = 0) -> Figure:
    """The quiet look that all drawings have.

    Args:
        across: title of the x axis.
        up: title of the drawing, which names its y axis.
        height: in pixels; the width is the page's.
        legend_entries: how many names stand between title and drawing.
    """
    axis = {
        "gridcolor": GRID,
        "linecolor": FAINT,
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
        "tickfont": {"color": QUIET},
    }
    return {
        "height": height,
        "margin": {"l": 48, "r": 16, "t": 40 + _LEGEND_LINE * -(-legend_entries // _NAMES_PER_LINE), "b": 52},
        "font": {
            "family": "-apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, Liberation Sans, sans-serif",
            "size": 13,
            "color": INK,
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "title": {"text": up, "x": 0, "xref": "container", "font": {"size": 14}, "y": 0.98, "yanchor": "top"},
        "xaxis": {**axis, "title": {"text": across, "font": {"color": QUIET, "size": 13}}, "showline": True},
        "yaxis": {**axis, "title": {"text": ""}},
        "showlegend": legend_entries > 0,
        "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"},
        "hoverlabel": {"align": "left"},
        "dragmode": False,
        "annotations": [],
    }
