"""Calibration figures of a run: who is read at which temperature, and who has no figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compressor.evaluation.calibration import calibration_figures
from export.calibration import measure_calibration
from serving.manifest import TaskSpec

INTENT = TaskSpec(name="intent", type="classification", labels=("a", "b", "c"), temperature=2.0)
PLAIN = TaskSpec(name="intent", type="classification", labels=("a", "b", "c"))


def figures(task: TaskSpec = INTENT) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Any]]:
    """Labels, logits by model, and the figures of a teacher, a student and two artifacts."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    names = ("teacher", "student", "fp32", "int8")
    logits = {name: rng.normal(size=(120, 3)) + 3 * np.eye(3)[labels] * (name != "teacher") for name in names}
    torch = {name: logits[name] for name in ("teacher", "student")}
    served = {name: logits[name] for name in ("student", "fp32", "int8")}
    found = calibration_figures(task, labels, torch, served=served, drawn="int8")
    assert found is not None
    return labels, logits, found


def test_torch_models_are_read_as_they_are_and_artifacts_as_they_are_served() -> None:
    """A teacher at the student's temperature, or an artifact without, would be compared for nothing."""
    labels, logits, found = figures()
    read = [(model["model"], model["temperature"]) for model in found["models"]]
    assert read == [("teacher", 1.0), ("student", 1.0), ("student", 2.0), ("fp32", 2.0), ("int8", 2.0)]
    for model in found["models"]:
        task = INTENT if model["temperature"] == 2.0 else PLAIN
        expected = measure_calibration(task, logits[model["model"]], labels)
        assert model["nll"]["value"] == expected.nll.value
        assert model["expected_ece"]["high"] == expected.expected_ece.high


def test_the_diagram_is_of_the_served_artifact_before_and_after() -> None:
    """Two equal curves, or those of another artifact, would show what no user gets."""
    _, logits, found = figures()
    assert found["reliability"]["model"] == "int8"
    before, after = found["reliability"]["before"], found["reliability"]["after"]
    assert sum(point["count"] for point in before) == sum(point["count"] for point in after) == 120
    mean = sum(point["count"] * point["confidence"] for point in before) / 120
    shares = np.exp(logits["int8"])
    assert mean == pytest.approx((shares / shares.sum(axis=1, keepdims=True)).max(axis=1).mean())
    assert sum(point["count"] * point["confidence"] for point in after) / 120 < mean


def test_a_teacher_that_did_not_answer_every_text_has_no_figures() -> None:
    """A mean over the texts that it happened to answer is another split's."""
    labels = np.array([0, 1, 2])
    teacher = np.array([[1.0, 0, 0], [np.nan] * 3, [0, 0, 1.0]])
    found = calibration_figures(INTENT, labels, {"teacher": teacher}, served={"fp32": np.eye(3)}, drawn="fp32")
    assert found is not None
    assert [model["model"] for model in found["models"]] == ["fp32"]
    assert found["unanswered"] == ["teacher"]


def test_a_regression_has_none() -> None:
    """Null, not a figure of something else."""
    task = TaskSpec(name="stars", type="regression")
    assert calibration_figures(task, np.zeros(3), {}, served={"fp32": np.zeros((3, 1))}, drawn="fp32") is None
