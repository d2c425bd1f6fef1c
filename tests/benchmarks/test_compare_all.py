"""The comparison of all methods: what is asked of `compressor compare`, and what is kept of its answer."""

from __future__ import annotations

import json
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare_all import METHODS, _options, _parse, main
from benchmarks.comparisons import recipe_path
from compressor.distillation.presets import PRESETS, methods_at, parse_method_text
from compressor.recipe_file import load_recipe


@pytest.fixture
def data(toy_data: Path, tmp_path: Path) -> Path:
    """The toy data set under the name of SST-2."""
    shutil.copytree(toy_data / "trec6", tmp_path / "data" / "sst2")
    return tmp_path / "data"


def test_every_method_is_compared(data: Path, tmp_path: Path) -> None:
    """Catches a method that was added and that nobody measured, and an arm that stands twice."""
    arms = [parse_method_text(text) for text in METHODS.split(",")]
    elsewhere = {"bam", *methods_at({name: {} for name in PRESETS}, "texts")}
    assert {name for arm in arms for name in arm} == set(PRESETS) - elsewhere, "benchmarks/bam.py and l2a.py have them"
    assert len({json.dumps(arm) for arm in arms}) == len(arms)


def test_the_command_is_the_recipe_on_drawn_evaluation_rows(data: Path, tmp_path: Path) -> None:
    """Catches evaluation rows that differ from call to call, and overrides that reach no field."""
    options = ["--data", str(data), "--work", str(tmp_path / "work"), "--test-rows", "12", "--set", "train_rows=9"]
    command = _options(_parse(options), "sst2")
    settings = [word for before, word in pairwise(command) if before == "--set"]
    recipe = load_recipe(recipe_path("compare_sst2"), settings)
    (task,) = recipe.tasks.values()
    assert len((Path(task.data) / "test.jsonl").read_text().splitlines()) == 12
    assert len((Path(task.data) / "train.jsonl").read_text().splitlines()) == 60
    assert task.train_rows == 9
    assert command[command.index("--main") + 1] == "kd:none"


def test_a_failed_comparison_stops_no_other_and_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a failure that nobody is told of, and a result of an earlier call that is kept as this one's."""
    tried: list[str] = []

    def fail(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        tried.append(Path(command[2]).stem)
        return subprocess.CompletedProcess(command, returncode=2)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(SystemExit, match="supportdesk, sst2"):
        main(["--data", str(data), "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")])
    assert tried == ["compare_supportdesk", "compare_sst2"]
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_quick_run_leaves_a_result_without_folders_of_this_machine(
    data: Path, toy_checkpoint: Path, tmp_path: Path
) -> None:
    """Catches a copy that tells of this machine, and a table that the comparison's fields no longer fill."""
    results, docs = tmp_path / "results", tmp_path / "results.md"
    results.mkdir()
    options = ["--data", str(data), "--work", str(tmp_path / "work"), "--results", str(results), "--docs", str(docs)]
    main([*options, "--quick", "--only", "sst2", "--set", f"teacher.model={toy_checkpoint}", "--dtype", "fp32"])
    found = json.loads((results / "compare_sst2.json").read_text())
    assert [arm["label"] for arm in found["arms"]] == ["none", "sda", "swa"]
    assert found["recipe"]["tasks"]["sentiment"]["data"] == "data/sst2"
    assert "| swa |" in docs.read_text()
