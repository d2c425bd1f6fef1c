"""Churn of a run: who is held against whom, and what the worst slice is called."""

from __future__ import annotations

import json

import numpy as np
import pytest

from compressor.evaluation.churn import churn_figures, pairs_of
from serving.manifest import TaskSpec

INTENT = TaskSpec(name="intent", type="classification", labels=("a", "b"))


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (
            ["teacher", "student", "fp32", "int8"],
            ["student/teacher", "fp32/teacher", "int8/teacher", "int8/fp32"],
        ),
        (["student", "fp32", "int8", "fp16"], ["int8/fp32", "fp16/fp32"]),
        (["student", "fp32"], []),
    ],
)
def test_everything_is_held_against_the_teacher_and_artifacts_against_fp32(
    models: list[str], expected: list[str]
) -> None:
    """A student against its own graph says nothing, and without a teacher nothing is held against one."""
    assert ["/".join(pair) for pair in pairs_of(models)] == expected


def test_the_model_is_what_replaces_the_other() -> None:
    """Before and after swapped turn every loss into a gain."""
    labels = np.repeat([0, 1], [60, 60])
    teacher, int8 = labels.copy(), labels.copy()
    int8[:6] = 1
    found = churn_figures(INTENT, labels, [4] * 120, {"teacher": teacher, "fp32": teacher, "int8": int8})
    pair = next(one for one in found if (one["model"], one["against"]) == ("int8", "teacher"))
    assert pair["flips"] == {"right_to_wrong": 6, "wrong_to_right": 0, "wrong_to_wrong": 0}
    assert pair["worst_slice"]["name"] == "a"
    assert pair["worst_slice"]["value"] == pytest.approx(0.1)
    assert pair["worst_slice"]["low"] < 0.1 < pair["worst_slice"]["high"]
    assert json.loads(json.dumps(found, allow_nan=False))[0]["model"] == "fp32"


def test_without_large_slices_there_is_no_worst() -> None:
    """Null is not a loss of nothing."""
    answers = {"fp32": np.zeros(9, dtype=int), "int8": np.zeros(9, dtype=int)}
    (pair,) = churn_figures(INTENT, np.zeros(9, dtype=int), [3] * 9, answers)
    assert pair["worst_slice"] is None
    assert list(pair["left_out"]) == ["a", "3 tokens"]
