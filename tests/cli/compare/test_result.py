"""`compressor compare`: what it leaves, what a second call repeats and adds, what it says of a failed cell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from compressor.comparison.cells import Cell
from serving.errors import UserError

METHODS = "none,kd"


def test_a_comparison_leaves_what_is_promised(compared: Any) -> None:
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


def test_cells_are_run_folders_over_one_store(compared: Any) -> None:
    """Catches a teacher that is trained once per cell, and cells that cannot be opened by other commands."""
    names = [name.rpartition("-")[0] for name in compared.stages()]
    assert names.count("teacher-topic") == names.count("targets-topic") == names.count("data") == 1
    assert compared.result["teachers"][0]["value"] is not None
    for seed in (0, 1):
        for arm in ("none", "kd"):
            cell = compared.folder / "cells" / f"{arm}-{seed}"
            recipe = yaml.safe_load((cell / "recipe.yaml").read_text())
            assert (recipe["order_seed"], list(recipe["method"])) == (seed, [arm])
            assert (cell / "figures" / "figures.json").is_file()
    assert len(set(compared.weights().values())) == 4
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
    done = compressor("compare", toy.recipe, "--methods", "kd,kd:alpha=0.5", "--seeds", 3, "--output", toy.run)
    assert "stopped by the test" in done.error
    (plan,) = seen
    assert plan["main"] == {"method": "kd(alpha=0.5)", "baseline": "none", "task": "topic"}
    assert list(plan["arms"]) == ["none", "kd", "kd(alpha=0.5)"]
    assert plan["seeds"] == [0, 1, 2]
    assert len(plan["family"]) == 2
    assert len(plan["recipe_hash"]) == 64
    assert plan["history"][0]["finished_cells"] == 0
    assert not [name for name in toy.stages() if name.startswith(("student", "teacher"))]


def test_a_second_call_repeats_nothing_and_prints_a_table(compared: Any, compressor: Callable[..., Any]) -> None:
    """Catches cells that are trained again because a key or a done mark is not stable."""
    before = compared.stages()
    done = compressor("compare", compared.toy.recipe, "--seeds", 2, "--output", compared.folder)
    assert done.code == 0, done.err
    assert compared.stages() == before
    assert "4 cells, 4 done before" in done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["method", "accuracy", "spread"] in [line[:3] for line in lines]
    assert {"none", "kd"} <= {line[0] for line in lines if line}
    assert "kd against none on topic: accuracy" in done.out


def test_another_recipe_or_folder_is_refused(compared: Any, tmp_path: Path, compressor: Callable[..., Any]) -> None:
    """Catches cells of two recipes in one table."""
    command = ["compare", compared.toy.recipe, "--seeds", 2]
    other = compressor(*command, "--set", "training.epochs=2", "--output", compared.folder)
    assert (other.code, "another recipe: training changed" in other.error) == (2, True)
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    assert "holds other things" in compressor(*command, "--output", full).error
    assert "is a file" in compressor(*command, "--output", full / "notes.txt").error


def test_several_runs_are_arms_like_others(compared: Any, tmp_path: Path, compressor: Callable[..., Any]) -> None:
    """Catches a table that cannot be made because an average plans no steps, and runs that are counted as one."""
    folder = tmp_path / "several"
    store = ["--stages", compared.folder / "stages"]
    methods = "none,avg:runs=2,vote:runs=2"
    command = ["compare", compared.toy.recipe, "--methods", methods, "--seeds", 1, "--output", folder, *store, "--json"]
    done = compressor(*command)
    assert done.code == 0, done.err
    assert done.err.count("> training the student") == 1  # none's run is the first of both, the other is shared
    result = json.loads(done.out)
    none, avg, vote = result["arms"]
    assert (none["runs"], none["epochs"]) == (1, 1)
    for arm in (avg, vote):
        assert (arm["runs"], arm["epochs"], arm["steps"]) == (2, 2, 2 * none["steps"])
        assert arm["seconds"] > none["seconds"]
        assert arm["tasks"]["topic"]["per_seed"].keys() == {"0"}
    assert [(one["method"], one["verdict"]) for one in result["comparisons"]] == [
        ("avg(runs=2)", "no claim"),
        ("vote(runs=2)", "no claim"),
    ]
    cells = folder / "cells"
    assert json.loads((cells / "vote_runs=2-0" / "figures" / "figures.json").read_text())["members"] == 2
    assert not (cells / "vote_runs=2-0" / "student").exists()
    history = json.loads((cells / "avg_runs=2-0" / "student" / "history.json").read_text())
    assert len(history["runs"]) == 2
    mean = load_file(cells / "avg_runs=2-0" / "student" / "model.safetensors")
    members = [load_file(compared.folder / "stages" / run["folder"] / "model.safetensors") for run in history["runs"]]
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (members[0][name] + members[1][name]) / 2, rtol=0, atol=1e-7)


def test_a_failed_cell_leaves_the_others_and_is_tried_again(
    compared: Any, tmp_path: Path, compressor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
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


def test_more_seeds_and_arms_keep_the_old_cells(compared: Any, tmp_path: Path, compressor: Callable[..., Any]) -> None:
    """Catches an extension that trains everything again, or that hides that it was made after results."""
    arms = tmp_path / "arms.yaml"
    arms.write_text(yaml.safe_dump({"long": {"method": "none", "set": {"training.epochs": 2}}}))
    before, old = compared.stages(), compared.weights()
    command = ["compare", compared.toy.recipe, "--arms", arms, "--seeds", 3, "--output", compared.folder]
    done = compressor(*command, "--json")
    assert done.code == 0, done.err
    assert {name: compared.stages().get(name) for name in before} == before
    assert compared.weights().items() >= old.items()
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


def test_every_seed_draws_its_own_labelled_rows(toy: Any, compressor: Callable[..., Any]) -> None:
    """Catches few-label arms of one seed that were trained on different rows: their difference would not be paired."""
    command = ["compare", toy.recipe, "--methods", "none,none:", "--seeds", 2]
    assert compressor(*command, "--output", toy.run).code == 2
    arms = toy.folder / "arms.yaml"
    arms.write_text(yaml.safe_dump({"long": {"method": "none", "set": {"training.epochs": 2}}}))
    command = ["compare", toy.recipe, "--arms", arms, "--seeds", 2, "--train-rows", 30, "--output", toy.run]
    done = compressor(*command, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["train_rows"] == result["tasks"]["topic"]["rows"]["train"] == 30
    folders = {
        cell.name: json.loads((cell / "figures" / "stage.json").read_text()) for cell in (toy.run / "cells").iterdir()
    }
    data = {name: record["inputs"]["data"] for name, record in folders.items()}
    assert data["none-0"] == data["long-0"] != data["none-1"] == data["long-1"]
    assert not [name for name in toy.stages() if name.startswith("teacher")]  # no arm asks one
    other = compressor(*command[:-2], "--train-rows", 40, "--output", toy.run)
    assert (other.code, "--train-rows 30" in other.error) == (2, True)
