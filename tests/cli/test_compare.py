"""`compressor compare`: what it leaves, what a second call repeats, what it refuses, and what it survives."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressor.comparison.cells import Cell
from serving.errors import UserError

METHODS = "none,kd"


@dataclass(frozen=True)
class Compared:
    """A finished comparison of `none` and `kd` over two seeds.

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


def write(toy: Any, **training: Any) -> Path:
    """The toy recipe with a student that learns something in a second."""
    made: Path = toy.write(training={**toy.values()["training"], "learning_rate": 5e-4, **training})
    return made


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory, toy_run: Any, compressor: Callable[..., Any]) -> Compared:
    toy = type(toy_run)(tmp_path_factory.mktemp("compared"), toy_run.model)
    toy.write_data([json.loads(line) for line in toy_run.data.read_text().splitlines()])
    write(toy)
    folder = toy.folder / "comparison"
    done = compressor("compare", toy.recipe, "--methods", METHODS, "--seeds", 2, "--output", folder, "--json")
    assert done.code == 0, done.err
    return Compared(toy, folder, json.loads(done.out), done.err)


def stages(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "stages").glob("*-*")}


def weights(folder: Path) -> dict[str, str]:
    """sha256 of every cell's student, by the cell's name."""
    return {
        cell.name: hashlib.sha256((cell / "student" / "model.safetensors").read_bytes()).hexdigest()
        for cell in sorted((folder / "cells").iterdir())
    }


def test_a_comparison_leaves_what_is_promised(compared: Compared) -> None:
    """Catches a program that reads comparison.json and finds a field missing or the page not there."""
    result = compared.result
    assert result == json.loads((compared.folder / "comparison.json").read_text())
    assert (compared.folder / "comparison.html").stat().st_size > 100_000
    assert [arm["label"] for arm in result["arms"]] == ["none", "kd"]
    for arm in result["arms"]:
        figures = arm["tasks"]["topic"]
        assert list(figures["per_seed"]) == ["0", "1"]
        assert min(figures["per_seed"].values()) <= figures["mean"] <= max(figures["per_seed"].values())
        assert (arm["runs"], arm["epochs"]) == (1, 1)
        assert arm["steps"] > 0
        assert arm["seconds"] > 0
    (comparison,) = result["comparisons"]
    assert (comparison["method"], comparison["baseline"], comparison["role"]) == ("kd", "none", "main")
    assert comparison["low"] <= comparison["difference"] <= comparison["high"]
    assert comparison["difference"] == pytest.approx(
        result["arms"][1]["tasks"]["topic"]["mean"] - result["arms"][0]["tasks"]["topic"]["mean"]
    )
    assert comparison["verdict"] in ("gain", "loss", "no evidence of a difference")
    assert result["protocol"]["threads"]["student"] == 1
    assert result["environment"]["cpus"] >= 1
    assert result["failed"] == []


def test_cells_are_run_folders_over_one_store(compared: Compared) -> None:
    """Catches a teacher that is trained once per cell, and cells that cannot be opened by other commands."""
    names = [name.rpartition("-")[0] for name in stages(compared.folder)]
    assert names.count("teacher-topic") == names.count("targets-topic") == names.count("data") == 1
    assert compared.result["teachers"][0]["value"] is not None
    for seed in (0, 1):
        for arm in ("none", "kd"):
            cell = compared.folder / "cells" / f"{arm}-{seed}"
            recipe = yaml.safe_load((cell / "recipe.yaml").read_text())
            assert (recipe["order_seed"], list(recipe["method"])) == (seed, [arm])
            assert (cell / "figures" / "figures.json").is_file()
    assert len(set(weights(compared.folder).values())) == 4
    assert compared.said.count("fine-tuning the teacher") == 1 + 2  # trained once, found done by the two kd cells


def test_the_plan_was_written_before_anything_was_trained(
    toy: Any, compressor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a main comparison that could still be chosen when the results are known."""
    seen: list[dict[str, Any]] = []

    def stop(cells: Any, jobs: int) -> list[Any]:
        seen.append(json.loads((toy.run / "comparison-plan.json").read_text()))
        raise UserError("stopped by the test")

    monkeypatch.setattr("compressor.comparison.run._shared_stages", lambda cells: [])
    monkeypatch.setattr("compressor.comparison.run.run_cells", stop)
    done = compressor("compare", write(toy), "--methods", "kd,kd:alpha=0.5", "--seeds", 3, "--output", toy.run)
    assert "stopped by the test" in done.error
    (plan,) = seen
    assert plan["main"] == {"method": "kd(alpha=0.5)", "baseline": "none", "task": "topic"}
    assert list(plan["arms"]) == ["none", "kd", "kd(alpha=0.5)"]
    assert plan["seeds"] == [0, 1, 2]
    assert len(plan["family"]) == 2
    assert len(plan["recipe_hash"]) == 64
    assert plan["history"][0]["finished_cells"] == 0
    assert not [name for name in stages(toy.run) if name.startswith(("student", "teacher"))]


def test_a_second_call_repeats_nothing_and_prints_a_table(compared: Compared, compressor: Callable[..., Any]) -> None:
    """Catches cells that are trained again because a key or a done mark is not stable."""
    before = stages(compared.folder)
    done = compressor("compare", compared.toy.recipe, "--seeds", 2, "--output", compared.folder)
    assert done.code == 0, done.err
    assert stages(compared.folder) == before
    assert "4 cells, 4 done before" in done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["method", "accuracy", "spread"] in [line[:3] for line in lines]
    assert {"none", "kd"} <= {line[0] for line in lines if line}
    assert "kd against none on topic: accuracy" in done.out


def test_more_seeds_and_arms_keep_the_old_cells(
    compared: Compared, tmp_path: Path, compressor: Callable[..., Any]
) -> None:
    """Catches an extension that trains everything again, or that hides that it was made after results."""
    arms = tmp_path / "arms.yaml"
    arms.write_text(yaml.safe_dump({"long": {"method": "none", "set": {"training.epochs": 2}}}))
    before, old = stages(compared.folder), weights(compared.folder)
    command = ["compare", compared.toy.recipe, "--arms", arms, "--seeds", 3, "--output", compared.folder]
    done = compressor(*command, "--json")
    assert done.code == 0, done.err
    assert {name: stages(compared.folder).get(name) for name in before} == before
    assert weights(compared.folder).items() >= old.items()
    result = json.loads(done.out)
    assert [arm["label"] for arm in result["arms"]] == ["none", "kd", "long"]
    assert [arm["epochs"] for arm in result["arms"]] == [1, 1, 2]
    assert result["seeds"] == [0, 1, 2]
    assert result["protocol"]["late"] == {"arms": ["long"], "seeds": [2], "main": []}
    page = (compared.folder / "comparison.html").read_text()
    assert "Added when results were there: long" in page

    refused = compressor(*command, "--main", "long:none")
    assert refused.code == 2
    assert "would be chosen after results" in refused.error
    renamed = compressor(*command, "--main", "long:none", "--rename-main", "--json")
    assert renamed.code == 0, renamed.err
    assert json.loads(renamed.out)["protocol"]["late"]["main"] == [
        {"method": "long", "baseline": "none", "task": "topic"}
    ]
    assert "Post hoc" in (compared.folder / "comparison.html").read_text()


@pytest.mark.slow
def test_two_jobs_train_the_same_weights(compared: Compared, tmp_path: Path, compressor: Callable[..., Any]) -> None:
    """Catches workers that train with other threads or seeds than one process does."""
    folder = tmp_path / "parallel"
    command = ["compare", compared.toy.recipe, "--methods", METHODS, "--seeds", 1, "--output", folder]
    done = compressor(*command, "--jobs", 2, "--json")
    assert done.code == 0, done.err
    alone = weights(compared.folder)
    assert weights(folder) == {name: alone[name] for name in ("kd-0", "none-0")}
    assert (folder / "cells" / "kd-0" / "output.log").read_text().count("> training the student") == 1
    assert "> training the student" not in done.err


def test_a_failed_cell_leaves_the_others_and_is_tried_again(
    compared: Compared, tmp_path: Path, compressor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a night of trainings that is lost to one cell, and a failure that is silently left out."""
    folder = tmp_path / "failing"
    store = ["--stages", compared.folder / "stages"]
    command = ["compare", compared.toy.recipe, "--methods", METHODS, "--seeds", 2, "--output", folder, *store, "--json"]
    run = Cell.run

    def broken(cell: Cell) -> None:
        if (cell.arm, cell.seed) == ("kd", 0):
            raise UserError("the disk is gone")
        if (cell.arm, cell.seed) == ("none", 1):
            raise ArithmeticError("a fault of ours")
        run(cell)

    monkeypatch.setattr(Cell, "run", broken)
    failed = compressor(*command)
    assert failed.code == 1
    assert "kd, seed 0: the disk is gone" in failed.err
    assert "none, seed 1: ArithmeticError: a fault of ours" in failed.err
    result = json.loads(failed.out)
    assert [(f["arm"], f["seed"]) for f in result["failed"]] == [("kd", 0), ("none", 1)]
    assert [arm["seeds"] for arm in result["arms"]] == [[0], [1]]
    assert result["comparisons"][0]["verdict"] == "missing"  # no seed of both

    monkeypatch.setattr(Cell, "run", lambda cell: broken(cell) if cell.arm == "kd" else run(cell))
    users = compressor(*command)
    assert (users.code, "the disk is gone" in users.error) == (2, True)
    monkeypatch.setattr(Cell, "run", run)
    again = compressor(*command)
    assert again.code == 0, again.err
    assert json.loads(again.out)["failed"] == []
    assert "4 cells, 3 done before" in again.err


def test_every_seed_draws_its_own_labelled_rows(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches few-label arms of one seed that were trained on different rows: their difference would not be paired."""
    command = ["compare", write(toy), "--methods", "none,none:", "--seeds", 2]
    assert compressor(*command, "--output", toy.run).code == 2
    arms = toy.folder / "arms.yaml"
    arms.write_text(yaml.safe_dump({"long": {"method": "none", "set": {"training.epochs": 2}}}))
    command = ["compare", write(toy), "--arms", arms, "--seeds", 2, "--train-rows", 30, "--output", toy.run]
    done = compressor(*command, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["train_rows"] == result["tasks"]["topic"]["rows"]["train"] == 30
    folders = {
        cell.name: json.loads((cell / "figures" / "stage.json").read_text()) for cell in (toy.run / "cells").iterdir()
    }
    data = {name: record["inputs"]["data"] for name, record in folders.items()}
    assert data["none-0"] == data["long-0"] != data["none-1"] == data["long-1"]
    assert not [name for name in stages(toy.run) if name.startswith("teacher")]  # no arm asks one
    other = compressor(*command[:-2], "--train-rows", 40, "--output", toy.run)
    assert (other.code, "--train-rows 30" in other.error) == (2, True)


WRONG: list[tuple[list[object], str]] = [
    (["--methods", "none,kdd"], "arm 'kdd': no method 'kdd'"),
    (["--methods", "none,kd:heat=2"], "has no knob 'heat'"),
    (["--methods", "none,,kd"], "empty entry"),
    (["--methods", "none"], "nothing to compare"),
    (["--methods", "kd,kd"], "'kd' stands twice"),
    (["--methods", "none,kd", "--main", "swa:none"], "METHOD one of kd"),
    (["--methods", "none,kd", "--main", "kd:swa"], "BASELINE one of none, kd"),
    (["--methods", "none,kd", "--main", "kd:none@mood"], "no task 'mood'. Choose one of: topic"),
    (["--arms", "missing.yaml"], "'missing.yaml' cannot be read"),
    (["--arms", {"a": {"method": "none", "set": {"training.epoch": 3}}}], "no key 'training.epoch'"),
    (["--arms", {"a": {"method": "none", "set": {"order_seed": 3}}}], "sets 'order_seed'"),
    (["--arms", {"a": {"methods": "none"}}], "no entry 'methods'"),
    (["--arms", {"kd": {"method": "none"}}], "it is the control's name"),
    (["--arms", {"a b": "none", "a?b": "none"}], "would share a folder"),
    (["--arms", {"a": {"method": "none", "set": {"tasks.topic.metric": "macro_f1"}}}], "has other test rows"),
    (["--arms", {"a": {"method": "none", "set": {"teacher.model": "/no/where"}}}], "/no/where"),
]


@pytest.mark.parametrize(("options", "expected"), WRONG, ids=[expected for _, expected in WRONG])
def test_wrong_use_is_one_line_before_any_training(
    toy: Any, compressor: Callable[..., Any], options: list[object], expected: str
) -> None:
    """Catches a mistake that costs a training, leaves a plan that cannot be mended, or ends in a traceback."""
    if isinstance(options[-1], dict):
        path = toy.folder / "arms.yaml"
        path.write_text(yaml.safe_dump(options[-1]))
        options = [options[0], path]
    done = compressor("compare", write(toy), *options, "--seeds", 2, "--output", toy.run)
    assert done.code == 2
    assert expected in done.error
    assert not (toy.run / "comparison-plan.json").exists()
    assert not list(toy.run.glob("stages/student*"))


def test_numbers_out_of_range_are_refused(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches a comparison of no seeds, which would report nothing as a result."""
    for option in ("--seeds", "--jobs", "--train-rows"):
        assert compressor("compare", toy.recipe, option, 0).code == 2


def test_another_recipe_or_folder_is_refused(
    compared: Compared, tmp_path: Path, compressor: Callable[..., Any]
) -> None:
    """Catches cells of two recipes in one table."""
    command = ["compare", compared.toy.recipe, "--seeds", 2]
    other = compressor(*command, "--set", "training.epochs=2", "--output", compared.folder)
    assert (other.code, "another recipe: training changed" in other.error) == (2, True)
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    assert "holds other things" in compressor(*command, "--output", full).error
    assert "is a file" in compressor(*command, "--output", full / "notes.txt").error


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.slow
def test_killed_workers_and_a_killed_parent_lose_nothing(
    toy: Any, script: Path, compressor: Callable[..., Any]
) -> None:
    """Catches orphans that go on training, a pool that is lost with one worker, and a call that starts again."""
    recipe = write(toy, epochs=20)
    command = ["compare", str(recipe), "--methods", METHODS, "--seeds", "2", "--jobs", "2", "--output", str(toy.run)]
    process = subprocess.Popen([str(script), *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def wait_for(pattern: str, number: int) -> None:
        end = time.monotonic() + 240
        while len(list(toy.run.glob(pattern))) < number:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)

    wait_for("stages/student-none-*.partial/training.json", 1)
    (lock,) = toy.run.glob("stages/.locks/student-none-*.lock")
    os.kill(int(lock.read_text()), signal.SIGKILL)
    wait_for("cells/none-1/output.log", 1)  # the others go on in a new process
    running = workers_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 30
    while any(alive(pid) for pid in running):
        assert time.monotonic() < end
        time.sleep(0.05)
    before = {name for name in stages(toy.run) if not name.endswith(".partial")}
    done = compressor(*command)
    assert done.code == 0, done.err
    assert before <= set(stages(toy.run))
    assert not list(toy.run.glob("stages/*.partial"))
