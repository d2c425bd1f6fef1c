"""`compressor compare` with a student per task: Single, Single->Single, Multi, Single->Multi, Multi->Multi."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

TASKS = ("topic", "urgency")


@dataclass(frozen=True)
class Several:
    """A finished comparison of shared students and students per task.

    Attributes:
        toy: data and recipe.
        folder: of the comparison.
        result: what --json printed.
        said: stderr of the call.
    """

    toy: Any
    folder: Path
    result: dict[str, Any]
    said: str

    def arm(self, label: str) -> dict[str, Any]:
        """An arm's entry of comparison.json."""
        found: dict[str, Any] = next(arm for arm in self.result["arms"] if arm["label"] == label)
        return found

    def stages(self, prefix: str) -> set[str]:
        """Finished stages whose names begin so."""
        return {path.name for path in (self.folder / "stages").glob(f"{prefix}*") if not path.suffix}


def written(toy: Any, rows: list[dict[str, Any]], **changes: Any) -> Any:
    toy.write_data(rows)
    tasks = {label: {"data": str(toy.data), "text": "text", "label": label} for label in TASKS}
    toy.write(tasks=tasks, training={**toy.values()["training"], "learning_rate": 5e-4}, **changes)
    return toy


@pytest.fixture(scope="module")
def several(
    tmp_path_factory: pytest.TempPathFactory,
    make_toy: Callable[[Path], Any],
    make_rows: Callable[..., Any],
    compressor: Callable[..., Any],
) -> Several:
    """`bam` and `kd@single` on two tasks over one seed, with the controls that are added."""
    toy = written(make_toy(tmp_path_factory.mktemp("several")), make_rows(120))
    folder = toy.folder / "comparison"
    command = ["compare", toy.recipe, "--methods", "bam,kd@single", "--seeds", 1, "--output", folder, "--json"]
    done = compressor(*command)
    assert done.code == 0, done.err
    return Several(toy, folder, json.loads(done.out), done.err)


def test_single_is_added_and_every_arm_is_measured_on_every_task(several: Several) -> None:
    """Catches a gain of sharing that has no control, and a table with holes."""
    labels = ["none", "none@single", "kd", "bam", "kd@single"]
    assert [arm["label"] for arm in several.result["arms"]] == labels
    assert [arm["is_single"] for arm in several.result["arms"]] == ["@single" in label for label in labels]
    assert "added the control 'none@single'" in several.said
    for arm in several.result["arms"]:
        assert set(arm["tasks"]) == set(TASKS)
    pairs = {(one["method"], one["baseline"]) for one in several.result["comparisons"] if one["task"] == "urgency"}
    assert {("none", "none@single"), ("bam", "none@single"), ("bam", "none"), ("kd@single", "none@single")} <= pairs
    assert ("none@single", "none") not in pairs
    assert len(several.result["comparisons"]) == 2 * 9
    assert several.result["protocol"]["family"] == 17


def test_the_cost_of_a_student_per_task_is_that_of_all_of_them(several: Several) -> None:
    """Catches single students that look cheap because one of them is shown."""
    shared, single = several.arm("none"), several.arm("none@single")
    assert (shared["runs"], single["runs"], several.arm("kd@single")["runs"]) == (1, 2, 2)
    assert (shared["epochs"], single["epochs"]) == (1, 1)
    figures = [
        json.loads((several.folder / "cells" / "none@single-0" / task / "figures" / "figures.json").read_text())
        for task in TASKS
    ]
    for size in ("parameters", "bytes"):
        assert single[size] == sum(one[size] for one in figures) > 1.8 * shared[size]
    seconds = [
        json.loads((path / "stage.json").read_text())["seconds"]
        for path in ((several.folder / "cells" / "none@single-0" / task / "student").resolve() for task in TASKS)
    ]
    assert single["seconds"] == pytest.approx(sum(seconds))


def test_single_students_share_rows_and_teachers_with_the_others(several: Several) -> None:
    """Catches another test split for single students, and single-task teachers that are trained twice."""
    assert len(several.stages("data-")) == 1
    assert len(several.stages("teacher-topic-")) == len(several.stages("teacher-urgency-")) == 1
    assert len(several.stages("targets-")) == 2
    cell = several.folder / "cells" / "kd@single-0"
    for task in TASKS:
        recipe = yaml.safe_load((cell / task / "recipe.yaml").read_text())
        assert recipe["student"]["tasks"] == [task]
        figures = json.loads((cell / task / "figures" / "figures.json").read_text())
        assert list(figures["tasks"]) == [task]
        value = figures["tasks"][task]["value"]
        assert several.arm("kd@single")["tasks"][task]["mean"] == pytest.approx(value)
    assert {(one["task"], one["trained_with"] == [], one["folds"]) for one in several.result["teachers"]} == {
        ("topic", True, None),
        ("urgency", True, None),
    }


def test_the_page_shows_students_per_task(several: Several) -> None:
    """Catches a page that hides that an arm is several models."""
    page = (several.folder / "comparison.html").read_text()
    for words in ("Difference to none@single", "a student per task", "none@single", "parameters"):
        assert words in page
    plan = json.loads((several.folder / "comparison-plan.json").read_text())
    assert [label for label, arm in plan["arms"].items() if arm["is_single"]] == ["none@single", "kd@single"]


def test_multi_to_multi_and_sampling_ablations_are_arms_of_a_file(
    several: Several, tmp_path: Path, compressor: Callable[..., Any]
) -> None:
    """Catches an ablation that is trained like the arm it is held against, and arms that repeat what is there."""
    arms = tmp_path / "arms.yaml"
    arms.write_text(
        yaml.safe_dump(
            {
                "Multi->Multi": {"method": "bam", "set": {"teacher.multitask": True}},
                "bam, exponent 0": {"method": "bam", "set": {"training.task_exponent": 0}},
            }
        )
    )
    before = several.stages("")
    command = ["compare", several.toy.recipe, "--arms", arms, "--seeds", 1, "--output", several.folder, "--json"]
    done = compressor(*command)
    assert done.code == 0, done.err
    assert "7 cells, 5 done before" in done.err
    new = {name.rpartition("-")[0] for name in several.stages("") - before}
    assert new == {
        "teacher-multitask", "targets-topic", "targets-urgency", "figures-teacher-topic", "figures-teacher-urgency",
        "student-bam", "figures-student-bam",
    }  # fmt: skip
    result = json.loads(done.out)
    assert [arm["label"] for arm in result["arms"]][-2:] == ["Multi->Multi", "bam, exponent 0"]
    joint = [one for one in result["teachers"] if one["trained_with"]]
    assert [(one["task"], one["trained_with"]) for one in joint] == [("topic", ["urgency"]), ("urgency", ["topic"])]
    assert len({one["stage"] for one in joint}) == 1
    assert len(several.stages("student-bam-")) == 3  # bam, Multi->Multi, exponent 0
    assert "one training with urgency" in (several.folder / "comparison.html").read_text()


@pytest.mark.slow
def test_a_failed_student_of_one_task_takes_its_cell_and_is_tried_again(
    several: Several, tmp_path: Path, compressor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a cell that counts as done because one of its students is."""
    from compressor.comparison.cells import CellRun
    from serving.errors import UserError

    run = CellRun.run

    def broken(own: CellRun) -> None:
        if own.folder.name == "urgency":
            raise UserError("the disk is gone")
        run(own)

    monkeypatch.setattr(CellRun, "run", broken)
    store = ["--stages", several.folder / "stages"]
    command = ["compare", several.toy.recipe, "--methods", "none@single", "--seeds", 1, *store]
    failed = compressor(*command, "--output", tmp_path / "out", "--json")
    assert failed.code == 2
    assert [(one["arm"], one["seed"]) for one in json.loads(failed.out)["failed"]] == [("none@single", 0)]
    monkeypatch.setattr(CellRun, "run", run)
    again = compressor(*command, "--output", tmp_path / "out")
    assert again.code == 0, again.err
    assert "2 cells, 1 done before" in again.err


@pytest.mark.slow
def test_single_students_are_the_same_in_several_processes(
    several: Several, tmp_path: Path, compressor: Callable[..., Any]
) -> None:
    """Catches a cell of several runs that cannot be sent to a worker, or trains otherwise there."""
    folder = tmp_path / "parallel"
    command = ["compare", several.toy.recipe, "--methods", "none@single", "--seeds", 1, "--jobs", 2]
    done = compressor(*command, "--output", folder)
    assert done.code == 0, done.err
    for task in TASKS:
        weights = [
            one / "cells" / "none@single-0" / task / "student" / "model.safetensors" for one in (several.folder, folder)
        ]
        assert weights[0].read_bytes() == weights[1].read_bytes()
