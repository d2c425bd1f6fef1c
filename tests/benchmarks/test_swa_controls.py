"""SWA against its controls: the right candidates on the right side, an equal choice, and the whole script on toys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cells import Answers
from benchmarks.swa_controls import (
    AVERAGE,
    COMPARISONS,
    EMA,
    LAST,
    LINEAR,
    SELECTED,
    SELECTED_CONTROL,
    _correct,
    main,
    selected,
    summarise,
)
from compressor.data.splits import Split, TaskData
from serving.manifest import TaskSpec

TASK = TaskSpec(name="topic", type="classification", labels=("a", "b"), metric="accuracy")
LABELS = np.arange(40) % 2


def answers(right: int, *, sure: float = 1.0, right_on_validation: int | None = None) -> Answers:
    """A student that is right on the first so many rows of 40."""

    def logits(number: int) -> np.ndarray:
        says = np.where(np.arange(40) < number, LABELS, 1 - LABELS)
        return (sure * np.eye(2)[says]).astype(np.float32)

    split = Split([(f"text {row}",) for row in range(40)], LABELS)
    data = TaskData(TASK, {"train": split, "validation": split, "test": split}, ("text",))
    on_validation = right if right_on_validation is None else right_on_validation
    return Answers(data, {"test": logits(right), "validation": logits(on_validation)})


def run(**right: int) -> dict[str, Answers]:
    names = {
        "average": AVERAGE,
        "last": LAST,
        "chosen": SELECTED,
        "none": LINEAR,
        "ema": EMA,
        "other": SELECTED_CONTROL,
    }
    return {label: answers(right.get(name, 20)) for name, label in names.items()}


def test_differences_are_the_method_minus_its_control() -> None:
    """Catches a sign that would turn a loss into a gain, and a control that stands in another's row."""
    found = summarise([run(average=30, none=26, last=28, ema=34, chosen=36, other=40) for _ in range(3)])
    values = {(row["method"], row["control"]): row["value"] for row in found["comparisons"]}
    assert list(values) == list(COMPARISONS)
    assert values == {
        (AVERAGE, LINEAR): pytest.approx(0.1),
        (AVERAGE, LAST): pytest.approx(0.05),
        (AVERAGE, EMA): pytest.approx(-0.1),
        (SELECTED, SELECTED_CONTROL): pytest.approx(-0.1),
    }
    assert found["mean"][AVERAGE] == pytest.approx(0.75)
    assert found["seeds"] == 3


def test_the_choice_reads_validation_and_its_loss_first() -> None:
    """Catches a choice by the test split, which would make every selected figure too good."""
    better_on_test = answers(40, right_on_validation=10)
    better_on_validation = answers(5, right_on_validation=30)
    pair = {"average": better_on_test, "last": better_on_validation}
    assert selected(pair) is better_on_validation
    modest, wrongly_sure = answers(20, right_on_validation=22, sure=0.1), answers(20, right_on_validation=24, sure=9.0)
    assert selected({"average": wrongly_sure, "last": modest}) is modest


def test_holm_covers_every_set_of_the_table() -> None:
    """Catches a correction per data set: five families of four would let one in five tables claim by chance."""
    sets: dict[str, Any] = {
        name: {"comparisons": [{"p_value": p} for p in p_values]}
        for name, p_values in (("rte", [0.01, 0.5]), ("mrpc", [0.02, None]))
    }
    _correct(sets)
    assert sets["rte"]["comparisons"][0]["holm_p"] == pytest.approx(0.03)
    assert sets["mrpc"]["comparisons"][0]["holm_p"] == pytest.approx(0.04)
    assert "holm_p" not in sets["mrpc"]["comparisons"][1]


def test_a_quick_run_fills_table_and_file(toy_data: Path, toy_checkpoint: Path, tmp_path: Path) -> None:
    """Catches a study that breaks after an hour; its controls must come from the same initial weights and rows."""
    places = {"--data": toy_data, "--work": tmp_path / "work", "--output": tmp_path / "swa.json"}
    options = [str(part) for option in places.items() for part in option]
    options += ["--docs", str(tmp_path / "results.md"), "--model", str(toy_checkpoint), "--dtype", "fp32"]
    main([*options, "--quick", "--only", "trec6"])
    result = json.loads((tmp_path / "swa.json").read_text())
    assert [(cell["set"], cell["seed"]) for cell in result["cells"]] == [("trec6", 0), ("trec6", 1)]
    facts = result["sets"]["trec6"]
    assert facts["rows"] == {"train": 24, "validation": 16, "test": 16}
    assert all(row["holm_p"] >= row["p_value"] for row in facts["comparisons"])
    assert (tmp_path / "results.md").read_text().count("| trec6 |") == 1 + len(COMPARISONS)
    students = list((tmp_path / "work" / "stages").glob("student-*/history.json"))
    assert len(students) == 6
    histories = [json.loads(path.read_text()) for path in students]
    assert len({history["initial_weights"] for history in histories}) == 1
    assert len({history["planned_steps"] for history in histories}) == 1
