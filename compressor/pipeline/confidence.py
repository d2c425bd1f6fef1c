"""The stage that asks, on the test split, how far answers can be believed and which of them changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from compressor.data.splits import TEST, TaskData
from compressor.evaluation.calibration import calibration_figures
from compressor.evaluation.churn import STUDENT, TEACHER, churn_figures
from compressor.evaluation.figures import read_logits
from compressor.pipeline.stages import read_json, write_json
from export.measure import read_measurements
from serving.answers import decide
from serving.manifest import Manifest, TaskSpec, read_manifest
from serving.tokenise import TOKENIZER_FILE, TextEncoder

CALIBRATION_FILE, CHURN_FILE = "calibration.json", "churn.json"
_CONTROL = "figures-control-"


def measure_confidence(folder: Path, inputs: Mapping[str, Path], data: Mapping[str, TaskData], bundle: Path) -> None:
    """Write `calibration.json` and `churn.json`: per task, what `compressor.evaluation` finds.

    Args:
        folder: to write.
        inputs: folders of `measurements`, `artifacts` (their figures) and of the figures of every model, as
            `figures-teacher-<task>`, `figures-student` and `figures-control-<name>`.
        data: the tasks.
        bundle: whose tasks have their temperatures.
    """
    manifest = read_manifest(bundle)
    fits = read_measurements(inputs["measurements"]).temperatures
    encoder = TextEncoder.load(bundle / TOKENIZER_FILE, manifest.inputs)
    calibration, churn = {}, {}
    for task in manifest.tasks:
        split = data[task.name].splits[TEST]
        labels = np.asarray(split.labels)
        models = _torch_logits(inputs, task.name)
        artifacts = _artifact_logits(inputs["artifacts"], manifest, task.name)
        calibration[task.name] = _calibration(task, labels, models, artifacts, manifest)
        if found := calibration[task.name]:
            found["fit"] = msgspec.to_builtins(fits[task.name]) if task.name in fits else None
        lengths = [len(encoding) for encoding in encoder.encode(split.texts)]
        churn[task.name] = churn_figures(task, labels, lengths, _decisions(task, models, artifacts))
    write_json(folder / CALIBRATION_FILE, calibration)
    write_json(folder / CHURN_FILE, churn)


def read_confidence(folder: Path) -> dict[str, Any]:
    """Both files, for the report: `calibration` and `churn`."""
    return {"calibration": read_json(folder / CALIBRATION_FILE), "churn": read_json(folder / CHURN_FILE)}


def _torch_logits(inputs: Mapping[str, Path], task: str) -> dict[str, np.ndarray]:
    """Test logits by model, the teacher first: what is read at temperature 1."""
    roles = {TEACHER: f"figures-teacher-{task}", STUDENT: "figures-student"}
    roles |= {f"control: {role.removeprefix(_CONTROL)}": role for role in inputs if role.startswith(_CONTROL)}
    return {name: read_logits(inputs[role], task, TEST) for name, role in roles.items() if role in inputs}


def _artifact_logits(folder: Path, manifest: Manifest, task: str) -> dict[str, np.ndarray]:
    names = [artifact.precision for artifact in manifest.artifacts]
    return {name: read_logits(folder / name, task, TEST) for name in names}


def _calibration(
    task: TaskSpec,
    labels: np.ndarray,
    models: Mapping[str, np.ndarray],
    artifacts: Mapping[str, np.ndarray],
    manifest: Manifest,
) -> dict[str, Any] | None:
    student = {STUDENT: models[STUDENT]} if task.temperature != 1.0 else {}
    drawn = manifest.default_artifact or next(iter(artifacts), STUDENT)
    return calibration_figures(task, labels, models, served={**student, **artifacts}, drawn=drawn)


def _decisions(
    task: TaskSpec, models: Mapping[str, np.ndarray], artifacts: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Answers of teacher, student and artifacts; without a teacher that has no answer to some text."""
    compared = {name: models[name] for name in (TEACHER, STUDENT) if name in models}
    answered = {name: logits for name, logits in compared.items() if not np.isnan(logits).any()}
    return {name: decide(logits, task) for name, logits in {**answered, **artifacts}.items()}
