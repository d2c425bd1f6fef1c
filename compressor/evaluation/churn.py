"""Whose answers changed on the test split: student and artifacts against the teacher, artifacts against fp32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from export.churn import Churn, measure_churn
from serving.manifest import TaskSpec

TEACHER, STUDENT, FP32 = "teacher", "student", "fp32"


def churn_figures(
    task: TaskSpec, labels: np.ndarray, lengths: Sequence[int], decisions: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """One entry per pair of models.

    Args:
        task: how right and wrong are told.
        labels: [rows] or [rows, labels].
        lengths: tokens of every text.
        decisions: by model: `teacher` where it answers every text, `student`, and every artifact by its precision.

    Returns:
        JSON values: `model`, `against`, the fields of `export.churn.Churn`, and `worst_slice` (its name, and the
        drop that holds for the worst one whichever it is; null where no slice has enough texts).
    """
    found = {
        (model, against): measure_churn(task, labels, decisions[against], decisions[model], lengths)
        for model, against in pairs_of(list(decisions))
    }
    return [
        {"model": model, "against": against, **msgspec.to_builtins(churn), "worst_slice": _worst(churn)}
        for (model, against), churn in found.items()
    ]


def pairs_of(models: Sequence[str]) -> list[tuple[str, str]]:
    """(model, what it is held against): all against the teacher, the artifacts against the fp32 one."""
    taught = [(model, TEACHER) for model in models if model != TEACHER and TEACHER in models]
    return taught + [(model, FP32) for model in models if model not in (TEACHER, STUDENT, FP32) and FP32 in models]


def _worst(churn: Churn) -> dict[str, Any] | None:
    if churn.worst is None or churn.worst_drop is None:
        return None
    value, low, high = churn.worst_drop
    return {"kind": churn.worst.kind, "name": churn.worst.name, "value": value, "low": low, "high": high}
