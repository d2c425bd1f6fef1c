"""What `compressor export --explain` prints on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cli.printing import make_console, print_table

if TYPE_CHECKING:
    from compressor.report.table import Table

BRIEF = ("layer", "what it is", "stored as", "why", "bytes in the file", "alone: logit MSE", "all but it: logit MSE")
"""The columns of the layers that fit a terminal; the page and --json have all."""


def print_explanation(found: Mapping[str, Any]) -> None:
    """Per quantised precision: totals in words, every layer, the search and the ranges.

    Args:
        found: by precision, as in a report's `quantisation`.
    """
    from compressor.report.quantisation import precision_view

    console = make_console()
    if not found:
        console.print("every artifact is fp32: nothing was quantised", markup=False)
    for precision, facts in found.items():
        view = precision_view(precision, facts)
        console.print()
        console.print(precision, style="bold", markup=False)
        for sentence in view.sentences:
            console.print(sentence, markup=False)
        for table in (_brief(view.layers), view.steps, view.ranges, view.fallbacks):
            if table is not None:
                console.print()
                print_table(table, console)


def _brief(layers: Table) -> Table:
    """The layers with a few of their columns."""
    places = [layers.columns.index(name) for name in BRIEF]
    rows = tuple(tuple(row[place] for place in places) for row in layers.rows)
    return replace(layers, columns=BRIEF, rows=rows)
