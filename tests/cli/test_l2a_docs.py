"""The recipe, the arms and the commands of docs/l2a.md are what the program takes; run on toy data."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressor.comparison.arms import arms_from_file
from compressor.distillation.augmentation.knobs import L2aKnobs, RefillKnobs, SourceKnobs
from compressor.recipe import Recipe

PAGE = Path(__file__).parents[2] / "docs" / "l2a.md"
FAST = {
    "training": {"steps": 3, "batch_size": 16, "dtype": "fp32", "threads": 1},
    "student": {"layers": 1},
    "gates": {"allow_inconclusive": True, "quantisation_metric_drop": 5.0},
    "benchmark": {"rounds": 3, "texts": 4, "threads": [1], "batch_sizes": [1], "waterfall_seconds": 0},
    "max_length": 32,
}
LIGHT = {
    "per_row": 2,
    "rounds": 1,
    "min_confidence": 0.0,
    "min_margin": 0.0,
    "max_edit_ratio": 1.0,
    "mlm_steps": 6,
}
LEARNS = {"steps": 60, "learning_rate": 3e-3}
EPISODES = {"episodes": 4, "updates": 2, "full_every": 2}


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert found, language
    return found


@pytest.fixture
def kitchen(tmp_path: Path, masked_model: Path, make_rows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the page's recipe, whose method stays, and its arms, made short; and the rows they read."""
    for seed, name in enumerate(("kitchen", "books")):
        rows = [{"text": row["text"], "label": row["topic"]} for row in make_rows(120, seed)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "traffic.txt").write_text("".join(f"{row['text']}\n" for row in make_rows(30, 5)))
    recipe, arms = (yaml.safe_load(block) for block in blocks("yaml"))
    recipe["tasks"]["sentiment"]["train_rows"] = 40
    recipe |= {**FAST, "teacher": {"model": str(masked_model), **LEARNS}}
    (tmp_path / "kitchen.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(arms, sort_keys=False))
    short = {
        arm.label: {"method": shortened(arm.method), "set": arm.changes}
        for arm in arms_from_file(tmp_path / "page.yaml")
    }
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump(short, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shortened(method: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    extra = {"refill": LIGHT, "l2a": {**LIGHT, **EPISODES}, "source": {}}
    return {name: {**knobs, **extra.get(name, {})} for name, knobs in method.items()}


def test_the_recipe_and_every_arm_of_the_page_are_understood(kitchen: Path) -> None:
    """Catches a page whose recipe or arms the program refuses."""
    recipe, arms = (yaml.safe_load(block) for block in blocks("yaml"))
    assert Recipe.model_validate(recipe).training.steps == 1000
    assert len(arms_from_file(kitchen / "page.yaml")) == len(arms) == 9


def test_every_knob_stands_on_the_page_with_its_default() -> None:
    """Catches a knob that nobody can find, and a default that was changed in one place only."""
    text = PAGE.read_text(encoding="utf-8")
    table = {
        name: defaults.split(", ")
        for names, defaults in re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", text, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    for kind in (SourceKnobs, RefillKnobs, L2aKnobs):
        for knob in fields(kind):
            assert knob.name in table, f"{kind.__name__}.{knob.name}"
    for knob in fields(L2aKnobs):
        if isinstance(knob.default, int | float | str) and knob.name not in ("tasks", "target_share"):
            shown = f"{knob.default:g}" if isinstance(knob.default, int | float) else f"`{knob.default}`"
            assert any(entry.startswith(shown) for entry in table[knob.name]), f"{knob.name}: {table[knob.name]}"


@pytest.mark.slow
def test_every_command_of_the_page_works_in_its_order(kitchen: Path, compressor: Callable[..., Any]) -> None:
    """Catches a page that has drifted from the program: recipes, options, arms, and what the report holds."""
    for command in [line[2:] for block in blocks("console") for line in block.splitlines()]:
        words = shlex.split(command.replace("--seeds 5", "--seeds 2"))
        done = compressor(*words[1:])
        assert done.code == 0, f"{command}\n{done.out}\n{done.err}"
    report = json.loads((kitchen / "runs" / "kitchen" / "report.json").read_text())
    recommended = Recipe.model_validate(yaml.safe_load(blocks("yaml")[0])).method
    assert report["recipe"]["method"] == recommended
    assert report["augmentation"]["sentiment"]["counts"]["kept"] > 0
    found = json.loads((kitchen / "comparisons" / "kitchen" / "comparison.json").read_text())
    assert len(found["arms"]) == 11
    assert not found["failed"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["refill", "l2a"])
def test_the_recipe_of_the_page_takes_the_methods_below_it(
    method: str, kitchen: Path, compressor: Callable[..., Any]
) -> None:
    """Catches a report or a bundle that only the recommended method has."""
    recipe = yaml.safe_load((kitchen / "kitchen.yaml").read_text())
    (kitchen / "kitchen.yaml").write_text(yaml.safe_dump({**recipe, "method": shortened({method: {}})}))
    done = compressor("run", "kitchen.yaml")
    assert done.code == 0, f"{done.out}\n{done.err}"
    report = json.loads((kitchen / "runs" / "kitchen" / "report.json").read_text())
    assert method in report["recipe"]["method"]
    assert report["augmentation"]["sentiment"]["counts"]["kept"] > 0
