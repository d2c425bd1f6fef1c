"""The parity ladder of a run as JSON values, for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from export.measure import read_measurements
from export.parity.rungs import Comparison, Rung


def read_ladder(folder: Path) -> list[dict[str, Any]]:
    """Every rung that `export.measure` measured, from the top; the shapes that were run are left out."""
    return [_rung(rung) for rung in read_measurements(folder).ladder]


def _rung(rung: Rung) -> dict[str, Any]:
    return {
        "rung": rung.name,
        "made_from": rung.made_from,
        "problem": rung.problem,
        "passed": rung.passed,
        "gates": msgspec.to_builtins(rung.gates),
        "comparisons": {
            other: {task: _comparison(found) for task, found in tasks.items()}
            for other, tasks in rung.comparisons.items()
        },
        "invariance": msgspec.to_builtins(rung.invariance),
    }


def _comparison(found: Comparison) -> dict[str, Any]:
    names = ("max_difference", "mean_difference", "agreement", "texts")
    return {name: getattr(found.parity, name) for name in names} | {
        "metric_drop": msgspec.to_builtins(found.metric_drop)
    }
