"""`compressor run` with tasks that have no teacher, share one, or are answered out of fold; and after kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressor.models.checkpoint import load_checkpoint, read_tasks
from compressor.report.headline import headline


def tasks_of(toy: Any, **teachers: object) -> dict[str, Any]:
    """Toy tasks by label, each with what its `teacher` says; None for the recipe's."""
    own = {label: {"teacher": teacher} if teacher else {} for label, teacher in teachers.items()}
    return {label: {"data": str(toy.data), "text": "text", "label": label, **own[label]} for label in teachers}


@pytest.fixture(scope="module")
def mixed(
    tmp_path_factory: pytest.TempPathFactory, make_toy: Callable[[Path], Any], compressor: Callable[..., Any]
) -> Any:
    """A finished run of three tasks: two share a multi-task teacher with out-of-fold targets, one has none."""
    toy = make_toy(tmp_path_factory.mktemp("mixed"))
    toy.write(
        tasks=tasks_of(toy, topic=None, urgency="none", flags=None),
        teacher={"model": str(toy.model), "multitask": True, "folds": 2},
        method="bam",
        export={"precisions": ["fp32"]},
        gates={**toy.values()["gates"], "teacher_metric_drop": 1.0},
    )
    done = compressor("run", toy.recipe, "--output", toy.run)
    assert done.code == 0, done.err
    (toy.folder / "said.txt").write_text(done.err)
    return toy


def stages_called(toy: Any, name: str) -> list[Path]:
    return [path for path in toy.run.glob("stages/*-*") if path.name.rpartition("-")[0] == name and not path.suffix]


def test_a_multi_task_teacher_is_one_model_in_report_and_run_folder(mixed: Any) -> None:
    """Catches a shared teacher whose size, training or latency is counted once per task."""
    teacher = mixed.report()["teacher"]
    (stage,) = stages_called(mixed, "teacher-multitask")
    assert [task.name for task in read_tasks(stage)] == ["topic", "flags"]
    size = sum(parameter.numel() for parameter in load_checkpoint(stage).parameters())
    assert (teacher["count"], teacher["members"], teacher["multitask"], teacher["folds"]) == (1, 1, True, 2)
    assert (teacher["kind"], teacher["parameters"]) == ("trained", size)
    assert list(teacher["training"]) == ["topic, flags"]
    timed = {row["variant"] for row in mixed.report()["measurements"] if row["variant"].startswith("teacher")}
    assert timed == {"teacher"}
    assert (mixed.run / "teacher").resolve() == stage
    assert (
        len(stages_called(mixed, "teacher-multitask-fold-1"))
        == len(stages_called(mixed, "teacher-multitask-fold-2"))
        == 1
    )
    assert "2 further teachers" in (mixed.folder / "said.txt").read_text()


def test_a_task_without_teacher_has_everything_but_a_teacher(mixed: Any) -> None:
    """Catches a report that cannot be made, or makes up a figure, where a task has no teacher."""
    report = mixed.report()
    assert list(report["tasks"]) == ["topic", "urgency", "flags"]
    assert list(report["teacher"]["tasks"]) == ["topic", "flags"]
    for model in (report["student"], *report["controls"].values(), report["artifacts"][0]):
        assert list(model["tasks"]) == ["topic", "urgency", "flags"]
    assert list(report["controls"]) == ["none", "kd"]
    assert not stages_called(mixed, "targets-urgency")
    assert not stages_called(mixed, "figures-teacher-urgency")
    sentence = headline(report)
    assert sentence.count("(teacher ") == 2
    assert "urgency" in sentence
    assert "urgency" in (mixed.run / "report.html").read_text()


def test_the_controls_of_bam_share_its_sampling_and_groups(mixed: Any) -> None:
    """Catches a gain of annealing that is one of other steps, rates or draws."""
    report = mixed.report()
    steps = {name: report["controls"][name]["training"][""]["planned_steps"] for name in ("none", "kd")}
    assert set(steps.values()) == {report["student"]["training"][""]["planned_steps"]}
    starts = {model["training"][""]["initial_weights"] for model in (report["student"], *report["controls"].values())}
    assert len(starts) == 1


def test_a_run_without_any_teacher_is_a_run(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a teacher that is trained, or missed, where nobody asks one."""
    toy.write(tasks=tasks_of(toy, topic="none"), method="none", export={"precisions": ["fp32"]})
    refused = compressor("teach", toy.recipe, "--output", toy.folder / "taught")
    assert (refused.code, "no task of this recipe has a teacher" in refused.error) == (2, True)
    done = compressor("run", toy.recipe, "--output", toy.run)
    assert done.code == 0, done.err
    report = toy.report()
    assert report["teacher"] is None
    assert not [name for name in toy.stages() if name.startswith(("teacher", "targets"))]
    assert not (toy.run / "teacher").exists()
    assert "teacher" not in headline(report)
    assert (toy.run / "report.html").stat().st_size > 100_000
    assert not [row for row in report["measurements"] if row["variant"].startswith("teacher")]


def test_the_gate_against_the_teacher_leaves_out_tasks_that_have_none(mixed: Any) -> None:
    """Catches a run that ends in a missing file because one of its tasks has no teacher."""
    found = [gate for gate in mixed.report()["gates"] if gate["name"] == "teacher_metric_drop"]
    assert [gate["task"] for gate in found] == ["topic", "flags"]


def test_folds_without_enough_texts_cost_no_training(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches folds that are found empty after the teacher was trained."""
    toy.write(teacher={"model": str(toy.model), "folds": 1000})
    done = compressor("run", toy.recipe, "--output", toy.run)
    assert done.code == 2
    assert "teacher.folds is 1000, but the rows of topic have" in done.error
    assert {name.rpartition("-")[0] for name in toy.stages()} == {"data"}


@pytest.mark.slow
def test_a_run_of_folds_and_bam_killed_twice_ends_with_the_same_weights(
    toy: Any, compressor: Callable[..., Any], script: Path
) -> None:
    """Catches a fold's teacher on other rows, or a student whose annealing begins anew, after kill -9."""
    recipe = toy.write(
        tasks=tasks_of(toy, topic=None, urgency="none", flags=None),
        teacher={"model": str(toy.model), "multitask": True, "folds": 2},
        method="bam",
        training={**toy.values()["training"], "epochs": 4, "checkpoint_seconds": 0.2},
    )
    whole = toy.folder / "whole"
    assert compressor("distill", recipe, "--output", whole).code == 0
    command = [str(script), "distill", str(recipe), "--output", str(toy.run)]
    for stage in ("teacher-multitask-fold-2", "student-bam"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 300
        while not list(toy.run.glob(f"stages/{stage}-*.partial/checkpoints/*/complete")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finished = {path.name: path.stat().st_mtime_ns for path in toy.run.glob("stages/*-*") if not path.suffix}
    assert compressor("distill", recipe, "--output", toy.run).code == 0
    after = {path.name: path.stat().st_mtime_ns for path in toy.run.glob("stages/*-*") if not path.suffix}
    assert {name: after[name] for name in finished} == finished
    for name in ("model.safetensors", "heads.safetensors"):
        for link in ("student", "teacher"):
            assert (whole / link / name).read_bytes() == (toy.run / link / name).read_bytes()
