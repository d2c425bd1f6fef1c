"""BAM's reproduction: what is asked of `compressor compare`, and what is kept of its answer."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.bam import ARMS, MAIN, _options, _parse, main
from benchmarks.comparisons import recipe_path
from compressor.comparison.arms import arms_from_file, with_controls
from compressor.comparison.plan import main_comparison
from compressor.recipe_file import load_recipe


def _write_pairs(folder: Path, labels: list[str]) -> None:
    folder.mkdir(parents=True)
    for split, count in (("train", 60), ("validation", 24), ("test", 24)):
        rows = [
            {
                "text_a": f"{folder.name} {split} {number}",
                "text_b": f"is {labels[number % len(labels)]}",
                "label": labels[number % len(labels)],
            }
            for number in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Toy pairs under the names of the four data sets."""
    for name in ("sick", "rte", "mrpc", "snli"):
        _write_pairs(tmp_path / "data" / name, ["no", "yes", "maybe"] if name in ("sick", "snli") else ["no", "yes"])
    return tmp_path / "data"


@pytest.mark.parametrize("name", MAIN)
def test_the_papers_students_are_among_the_arms(name: str) -> None:
    """Catches a main comparison that names no arm, and an arms file that lost one of the paper's rows."""
    tasks = list(load_recipe(recipe_path(f"bam_{name}")).tasks)
    arms = with_controls(arms_from_file(ARMS[name]), tasks)
    labels = {arm.label for arm in arms}
    assert {"none", "none@single", "Single->Single", "Multi->Multi", "Single->Multi"} <= labels
    assert main_comparison(MAIN[name], arms, tasks).method == "Single->Multi"


def test_tasks_of_one_data_set_read_the_same_rows(data: Path, tmp_path: Path) -> None:
    """Catches three drawings of supportdesk: a text would be trained on for one task and tested on for another."""
    settings = _options(_parse(["--data", str(data), "--work", str(tmp_path / "work")]), "supportdesk")
    recipe = load_recipe(
        recipe_path("bam_supportdesk"), [word for before, word in pairwise(settings) if before == "--set"]
    )
    assert len({task.data for task in recipe.tasks.values()}) == 1


def test_every_task_of_the_pairs_has_its_own_number_of_rows(data: Path, tmp_path: Path) -> None:
    """Catches tasks of equal size, on which no sampling exponent makes a difference."""
    options = _parse(["--data", str(data), "--work", str(tmp_path / "work"), "--train-rows", "30", "--test-rows", "12"])
    settings = _options(options, "pairs")
    recipe = load_recipe(recipe_path("bam_pairs"), [word for before, word in pairwise(settings) if before == "--set"])
    for task in recipe.tasks.values():
        assert len((Path(task.data) / "train.jsonl").read_text().splitlines()) == 30
        assert len((Path(task.data) / "test.jsonl").read_text().splitlines()) == 12


@pytest.mark.slow
def test_a_quick_run_leaves_a_result_per_task(data: Path, toy_checkpoint: Path, tmp_path: Path) -> None:
    """Catches arms that compare no longer understands, and a table that the comparison's fields no longer fill."""
    results, docs = tmp_path / "results", tmp_path / "results.md"
    results.mkdir()
    options = ["--data", str(data), "--work", str(tmp_path / "work"), "--results", str(results), "--docs", str(docs)]
    main([*options, "--quick", "--only", "pairs", "--set", f"teacher.model={toy_checkpoint}", "--dtype", "fp32"])
    found = json.loads((results / "bam_pairs.json").read_text())
    assert found["recipe"]["tasks"]["rte"]["data"] == "data/rte"
    assert docs.read_text().count("| Single->Multi |") == len(found["tasks"]) == 4
