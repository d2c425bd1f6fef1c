"""`compressor run` with methods of weights and of several runs: from the recipe to report and bundle."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import softmax

from compressor.data.splits import load_task_data, training_texts
from compressor.distillation.presets import PRESETS
from compressor.evaluation.flatness import Survey
from compressor.models.checkpoint import load_checkpoint
from compressor.models.teacher import teacher_logits
from compressor.pipeline.several_runs import member_seed


def stages_called(run: Path, name: str) -> list[Path]:
    """Finished stages of one name."""
    return [path for path in run.glob("stages/*-*") if path.name.rpartition("-")[0] == name and path.suffix == ""]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("method", [["kd", "swa"], pytest.param(["sda"], marks=pytest.mark.slow)])
def test_a_method_of_one_run_gives_bundle_report_and_both_controls(
    toy: Any, compressor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, method: list[str]
) -> None:
    """Catches a method that trains and then cannot be exported, or a report without one of its controls."""
    monkeypatch.setattr("compressor.pipeline.graph.Survey", lambda: Survey(num_directions=2))
    done = compressor("run", toy.write(method=method), "--output", toy.run)
    assert done.code == 0, done.err
    report = toy.report()
    assert list(report["student"]["method"]) == method
    assert list(report["controls"]) == ["none", "kd"]
    assert {path.name for path in (toy.run / "controls").iterdir()} == {"none", "kd"}
    assert report["student"]["kind"] == "trained"
    assert list(report["student"]["training"]) == [""]
    assert (toy.run / "bundle" / "manifest.json").is_file()
    assert len(stages_called(toy.run, f"student-{'+'.join(method)}")) == 1


def test_avg_is_the_mean_of_its_runs_from_training_to_bundle(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches an average of other runs than those reported, and a bundle of one run instead of the mean."""
    recipe = toy.write(method=[{"avg": {"runs": 2}}], export={"precisions": ["fp32"]})
    done = compressor("run", recipe, "--output", toy.run)
    assert done.code == 0, done.err
    report = toy.report()
    runs = report["student"]["runs"]
    assert [run["order_seed"] for run in runs] == [0, member_seed(0, 1)]
    members = [toy.run / "stages" / run["folder"] for run in runs]
    assert members[0] == (toy.run / "controls" / "none").resolve()  # one training serves as both
    mean = weights_of(toy.run / "student")
    first, second = (weights_of(member) for member in members)
    assert any(not torch.equal(first[name], second[name]) for name in mean)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2, rtol=0, atol=1e-7)
    assert report["student"]["kind"] == "average"
    assert list(report["student"]["training"]) == ["run 1", "run 2"]
    assert {"curve", "dtype"} <= report["student"]["training"]["run 2"].keys()
    page = (toy.run / "report.html").read_text()
    assert "student, run 2" in page
    before = toy.stages()
    assert compressor("distill", recipe, "--output", toy.run, "--set", "method={avg: {runs: 3}}").code == 0
    assert toy.new_stages(before) == {"student-none", "student-avg"}
    assert len(stages_called(toy.run, "student-none")) == 3  # two of them were there and are untouched


def test_vote_is_refused_before_anything_is_read_and_says_what_else_to_do(
    toy: Any, compressor: Callable[..., Any]
) -> None:
    """Catches three trainings that end in 'no single model'."""
    for command in ("run", "distill", "export"):
        done = compressor(command, toy.write(method=["kd", "vote"]), "--output", toy.run)
        assert done.code == 2
        assert "compressor compare" in done.error
        assert "teacher.ensemble" in done.error
    assert toy.stages() == {}


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (["swa", "se"], "'swa' and 'se' cannot be combined"),
        ({"sda": {"weight": -1}}, "sda.weight is -1.0, expected a number of at least 0"),
        ({"swa": {"start": 1.0}}, "averaging would begin after the last step"),
        ("kd+swa:every=0", "swa.every is 0, expected a whole number of at least 1"),
        ({"avg": {"of": ["one", "nowhere"]}}, "avg.of names 'nowhere', but there is no such folder"),
        ({"avg": {"of": ["one", "two"]}}, "avg.of names the run 'two'. Give the student in it: 'two/student'"),
    ],
)
def test_an_impossible_method_is_one_line_before_anything_is_read(
    toy: Any, compressor: Callable[..., Any], method: object, said: str
) -> None:
    """Catches a method that is found impossible after the teacher was trained, or in words that help nobody."""
    for folder in ("one", "two/student"):
        Path(folder).mkdir(parents=True)
    done = compressor("run", toy.write(method=method), "--output", toy.run)
    assert (done.code, said in done.error) == (2, True)
    assert not list(toy.run.glob("stages/*-*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {"swa": {"every": 50}}}, "swa.every is 50"),
        ({"method": {"sda": {"k": 1000}}}, "1000"),
        ({"method": ["swa", "avg"], "training": {"epochs": 1, "warmup": 0.9}}, "swa.start"),
    ],
)
def test_a_method_without_room_costs_no_training(
    toy: Any, compressor: Callable[..., Any], changes: dict[str, Any], said: str
) -> None:
    """Catches a teacher that is trained for hours before the student's method turns out to be impossible."""
    done = compressor("run", toy.write(**changes), "--output", toy.run)
    assert done.code == 2
    assert said in done.error
    assert {name.rpartition("-")[0] for name in toy.stages()} == {"data"}
    assert not (toy.run / "recipe.yaml").exists()


def students(toy: Any, compressor: Callable[..., Any], **changes: dict[str, Any]) -> list[str]:
    """Folders of students that the same recipe gives with some changes each."""
    folders = []
    for name, change in changes.items():
        output = toy.folder / name
        values = {"method": "none", **change}
        done = compressor("distill", toy.write(**values), "--output", output, "--stages", toy.folder / "store")
        assert done.code == 0, done.err
        folders.append(str(output / "student"))
    return folders


@pytest.mark.slow
def test_finished_students_can_be_averaged_and_others_are_refused_before_training(
    toy: Any, compressor: Callable[..., Any]
) -> None:
    """Catches a mean of unrelated weights, which loads, runs and answers nonsense."""
    one, two, other_seed, fewer_layers = students(
        toy,
        compressor,
        one={},
        two={"order_seed": 7},
        other_seed={"seed": 1},
        fewer_layers={"student": {"layers": 1}},
    )
    for wrong, said in ((other_seed, "different initial weights"), (fewer_layers, "different architectures")):
        recipe = toy.write(method={"avg": {"of": [one, wrong]}}, name="wrong")
        refused = compressor("distill", recipe, "--output", toy.run)
        assert refused.code == 2
        assert said in refused.error
        assert toy.stages() == {}
    recipe = toy.write(method={"avg": {"of": [one, two]}})
    done = compressor("distill", recipe, "--output", toy.folder / "mean", "--stages", toy.folder / "store")
    assert done.code == 0, done.err
    mean, first, second = (weights_of(Path(folder)) for folder in (toy.folder / "mean" / "student", one, two))
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2, rtol=0, atol=1e-7)
    names = {path.name.rpartition("-")[0] for path in (toy.folder / "mean" / "stages").glob("student-avg*")}
    assert names == {"student-avg"}  # no path in a folder's name


def test_an_ensemble_teaches_by_its_mean_probabilities(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches an ensemble of which only one member is asked, and figures of one member for those of all."""
    teacher = {"model": str(toy.model), "ensemble": 2}
    done = compressor("run", toy.write(teacher=teacher, export={"precisions": ["fp32"]}), "--output", toy.run)
    assert done.code == 0, done.err
    report = toy.report()
    found = report["teacher"]
    assert (found["kind"], found["members"], found["count"]) == ("ensemble", 2, 1)
    members = stages_called(toy.run, "teacher-topic")
    assert len(members) == 2
    sizes = [sum(p.numel() for p in load_checkpoint(member).parameters()) for member in members]
    assert found["parameters"] == sum(sizes)
    assert list(found["training"]) == ["topic, run 1", "topic, run 2"]
    assert "one member" in found["timed"]
    assert "one was timed" in (toy.run / "report.html").read_text()
    (data_folder,) = stages_called(toy.run, "data")
    data = load_task_data(data_folder / "topic")
    texts = training_texts(data)
    each = [softmax(teacher_logits(member, texts, data.task, max_length=64), axis=1) for member in members]
    assert not np.allclose(each[0], each[1], atol=1e-4)
    (targets,) = stages_called(toy.run, "targets-topic")
    np.testing.assert_allclose(softmax(np.load(targets / "targets.npy"), axis=1), np.mean(each, axis=0), atol=1e-6)


@pytest.mark.slow
def test_links_follow_a_teacher_that_becomes_an_ensemble_and_back(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches links that are written into a finished stage, and members that stay linked after they left."""
    folder = toy.run / "teacher"

    def teach(ensemble: int) -> set[str]:
        recipe = toy.write(teacher={"model": str(toy.model), "ensemble": ensemble})
        done = compressor("teach", recipe, "--output", toy.run)
        assert done.code == 0, done.err
        return {path.name for path in folder.iterdir()}

    single = teach(1)
    assert "model.safetensors" in single
    assert teach(3) == {"topic", "topic-2", "topic-3"}
    assert teach(2) == {"topic", "topic-2"}
    assert len({(folder / name).resolve() for name in ("topic", "topic-2")}) == 2
    assert teach(1) == single
    assert len(stages_called(toy.run, "teacher-topic")) == 3


@pytest.mark.slow
def test_existing_checkpoints_can_teach_together(toy: Any, skilled: Path, compressor: Callable[..., Any]) -> None:
    """Catches members whose label orders differ and are averaged by position."""
    teacher = {"model": [str(skilled), str(toy.model)], "train": False}
    recipe = toy.write(teacher=teacher, student={"model": str(toy.model), "layers": 2}, method="none")
    done = compressor("run", recipe, "--output", toy.run)
    assert done.code == 0, done.err
    report = toy.report()
    assert report["teacher"]["members"] == 2
    assert report["teacher"]["tasks"]["topic"]["value"] > 0.6  # the skilled one decides, the random one hardly
    assert report["teacher"]["training"] == {}


@pytest.mark.slow
def test_an_average_killed_in_its_second_run_ends_with_the_same_weights(
    toy: Any, compressor: Callable[..., Any], script: Path
) -> None:
    """Catches a mean over a run that was cut, and a finished run that is trained again after kill -9."""
    recipe = toy.write(
        method={"avg": {"runs": 2}}, training={**toy.values()["training"], "epochs": 6, "checkpoint_seconds": 0.05}
    )
    whole = toy.folder / "whole"
    assert compressor("distill", recipe, "--output", whole).code == 0
    command = [str(script), "distill", str(recipe), "--output", str(toy.run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    half = "stages/student-none-*.partial/checkpoints/*"
    while not (stages_called(toy.run, "student-none") and list(toy.run.glob(half))):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in stages_called(toy.run, "student-none")}
    assert len(before) == 1
    assert compressor("distill", recipe, "--output", toy.run).code == 0
    after = {path.name: path.stat().st_mtime_ns for path in stages_called(toy.run, "student-none")}
    assert {name: after[name] for name in before} == before
    weights = [folder / "student" / "model.safetensors" for folder in (whole, toy.run)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_help_names_every_method(compressor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a method that nobody can find out about, and one that is offered and not there."""
    monkeypatch.setenv("COLUMNS", "300")
    (named,) = re.findall(r"Methods \((.*?)\)", compressor("run", "--help").out)
    assert named.split(", ") == list(PRESETS)
