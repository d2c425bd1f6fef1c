"""The curves over numbers of labels as a drawing: every arm's mean, those of the simplest answers in colour.

    python -m benchmarks.label_plot

draws what lies in `benchmarks/results` into `docs/few-labels.svg`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.cells import DOCS, HERE
from benchmarks.label_curves import JUDGED, comparisons, scores_by_arm
from compressor.report.wording import number_of

PANELS = {"l2a_bank": "bank texts, twelve intents", "l2a_kitchen": "kitchen reviews, two sentiments"}
COLOURS = {
    "a none": "#555555",
    "b kd": "#1f77b4",
    "c source labels": "#2ca02c",
    "d source texts": "#17becf",
    "f target texts": "#e08214",
    "h refilled both": "#9467bd",
    JUDGED: "#d62728",
}
OTHERS = "#c8c8c8"
DRAWING = "few-labels.svg"
_ROOM = 0.055
"""Between two names at the least, as a share of the axis."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "few labels",
    "font.family": "sans-serif",
    "font.size": 9,
}


def draw(results: Path, target: Path, panels: Mapping[str, str] = PANELS) -> None:
    """Draw the kept comparisons, a panel per pair of domains; the same figures make the same file.

    Args:
        results: folder of the kept comparisons `<prefix>_<labels>.json`.
        target: an SVG file.
        panels: title by prefix; those of which nothing is kept are left out.
    """
    found = {title: comparisons(results, prefix) for prefix, title in panels.items()}
    found = {title: of for title, of in found.items() if of}
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2 * max(1, len(found)), 4.2), layout="constrained")
        for number, (title, of) in enumerate(found.items(), start=1):
            _panel(figure.add_subplot(1, len(found), number), title, of)
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})


def _panel(axes: Axes, title: str, found: Mapping[int, Mapping[str, Any]]) -> None:
    columns = sorted(found)
    lines = _lines({labels: scores_by_arm(found[labels]) for labels in columns})
    for name, line in sorted(lines.items(), key=lambda item: item[0] in COLOURS):
        colour = COLOURS.get(name, OTHERS)
        width = 2.2 if name == JUDGED else 1.4 if name in COLOURS else 1.0
        axes.plot(list(line), list(line.values()), marker="o", markersize=3, color=colour, linewidth=width)
    ends = {name: line[max(line)] for name, line in lines.items() if name in COLOURS and max(line) == columns[-1]}
    low, high = axes.get_ylim()
    for name, height in _spread(ends, _ROOM * (high - low)).items():
        place = (columns[-1] * 1.05, height)
        axes.annotate(name, place, color=COLOURS[name], va="center", annotation_clip=False)
    axes.set_xscale("log")
    axes.set_xlim(columns[0] * 0.93, columns[-1] * (columns[-1] / columns[0]) ** 0.38 * 1.05)
    axes.xaxis.set_major_locator(FixedLocator(columns))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{labels}\n{number_of(len(found[labels]['seeds']), 'seed')}" for labels in columns])
    axes.set_title(title, loc="left")
    axes.set_xlabel("labels of the target")
    axes.set_ylabel("accuracy, points")
    axes.grid(visible=True, axis="y", color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)


def _lines(arms: Mapping[int, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[int, float]]:
    """Per arm its mean over the seeds, by number of labels."""
    names = {name for scores in arms.values() for name in scores}
    return {
        name: {labels: float(np.mean(list(of[name].values()))) for labels, of in arms.items() if name in of}
        for name in sorted(names)
    }


def _spread(heights: Mapping[str, float], room: float) -> dict[str, float]:
    """Heights at which no two names touch, in the same order: in the middle of pushing all up and pushing all down."""
    rising = sorted(heights, key=lambda name: heights[name])
    up, down = dict(heights), dict(heights)
    for lower, upper in pairwise(rising):
        up[upper] = max(up[upper], up[lower] + room)
    for upper, lower in pairwise(reversed(rising)):
        down[lower] = min(down[lower], down[upper] - room)
    return {name: (up[name] + down[name]) / 2 for name in rising}


def main(given: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--output", type=Path, default=DOCS.with_name(DRAWING))
    arguments = parser.parse_args(given)
    draw(arguments.results, arguments.output)


if __name__ == "__main__":
    main()
