"""What students read beside their own rows: how many texts, and what a selector made of its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compressor.comparison.cells import Cell
from compressor.pipeline.added import AddedPlace
from compressor.pipeline.selecting import SELECTION_FILE
from compressor.pipeline.stages import read_json


def added_texts_of(cells: Sequence[Cell]) -> dict[str, dict[str, dict[str, Any]]]:
    """Per task and seed the texts that were added; empty for a method that adds none.

    Args:
        cells: the finished ones of one arm.

    Returns:
        By task and seed `candidates`, texts that passed the filters; `kept`, those that were read; and of a selector
        `share`, the part of the candidates that is kept, and `rho`, the rank correlation of the head's reward and the
        whole student's (None where it is not defined). Both are None without a selector.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        for run in cell.runs:
            for task, place in run.pipeline.added_places(run.recipe.method).items():
                found.setdefault(task, {})[str(cell.seed)] = _facts(place)
    return found


def _facts(place: AddedPlace) -> dict[str, Any]:
    candidates = len(place.everything())
    kept = {"candidates": candidates, "kept": int(place.is_kept(candidates).sum())}
    if place.selection is None:
        return {**kept, "share": None, "rho": None}
    selection = read_json(place.selection / SELECTION_FILE)
    return {**kept, "share": selection["share"], "rho": selection["correlation"]["rho"]}
