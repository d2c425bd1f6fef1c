"""How far every model of a run can be believed: one task's calibration figures on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from export.calibration import measure_calibration, reliability
from export.temperature import calibrated
from serving.manifest import TaskSpec


def calibration_figures(
    task: TaskSpec,
    labels: np.ndarray,
    models: Mapping[str, np.ndarray],
    *,
    served: Mapping[str, np.ndarray],
    drawn: str,
) -> dict[str, Any] | None:
    """Figures of every model, and the reliability of the served one before and after its temperature.

    Args:
        task: as the bundle reads it, with its temperature.
        labels: [rows] or [rows, labels].
        models: by name, logits [rows, outputs] that are read as they are; rows of NaN are texts without an answer.
        served: by name, logits that are read with the task's temperature; the torch student is in both.
        drawn: the model whose reliability is told, the served one where there is one.

    Returns:
        JSON values: `rows`, `temperature`, `models` (each with its own `temperature`), `unanswered` (models that did
        not answer every text) and `reliability`. None for a regression, which has no probabilities.
    """
    if task.type == "regression":
        return None
    plain = calibrated(task, 1.0)
    readings = [(name, plain, logits) for name, logits in models.items()]
    readings += [(name, task, logits) for name, logits in served.items()]
    shown = {**models, **served}[drawn]
    return {
        "rows": len(labels),
        "temperature": task.temperature,
        "models": [
            {"model": name, "temperature": own.temperature, **_figures(own, logits, labels)}
            for name, own, logits in readings
            if not np.isnan(logits).any()
        ],
        "unanswered": [name for name, _, logits in readings if np.isnan(logits).any()],
        "reliability": {
            "model": drawn,
            "before": msgspec.to_builtins(reliability(plain, shown, labels)),
            "after": msgspec.to_builtins(reliability(task, shown, labels)),
        },
    }


def _figures(task: TaskSpec, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    figures: dict[str, Any] = msgspec.to_builtins(measure_calibration(task, logits, labels))
    return figures
