"""Every command of docs/multitask.md is run in its order, with the recipes that the page shows, on toy data."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import sent_to

PAGE = Path(__file__).parents[2] / "docs" / "multitask.md"
FAST = {
    "training": {"epochs": 1, "batch_size": 32, "dtype": "fp32", "threads": 1},
    "gates": {"allow_inconclusive": True, "quantisation_metric_drop": 5.0},
    "benchmark": {"rounds": 3, "texts": 4, "threads": [1], "batch_sizes": [1], "waterfall_seconds": 0},
    "max_length": 32,
}


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert found, language
    return found


@pytest.fixture
def desk(tmp_path: Path, make_rows: Callable[..., Any], toy_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the recipes of the page, made short, and the tickets that they read."""
    rows = [
        {
            "text": row["text"],
            "intent": row["topic"],
            "urgency": row["urgency"],
            "tone": row["flags"],
            "mood": str(place % 2),
        }
        for place, row in enumerate(make_rows(240))
    ]
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for block in blocks("yaml"):
        name = block.splitlines()[0].removeprefix("# ")
        recipe = yaml.safe_load(block)
        recipe["student"] = {
            key: min(value, 2) if key == "layers" else value for key, value in recipe["student"].items()
        }
        recipe |= {**FAST, "teacher": {"model": str(toy_model)}}
        (tmp_path / name).write_text(yaml.safe_dump(recipe, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the documented requests are made with curl")
def test_every_command_of_the_page_works_in_its_order(
    desk: Path, compressor: Callable[..., Any], serve: Callable[[list[str]], str]
) -> None:
    """Catches a page that has drifted from the program: recipes, options, paths, and what a request answers."""
    address, answers = "", []
    for command in [line[2:] for block in blocks("console") for line in block.splitlines()]:
        words = shlex.split(command)
        if words[:2] == ["compressor", "serve"]:
            address = serve(words)
        elif words[0] == "curl":
            done = subprocess.run(sent_to(address, words), capture_output=True, text=True, check=True)
            answers.append(json.loads(done.stdout))
        else:
            result = compressor(*words[1:])
            assert result.code == 0, f"{command}\n{result.out}\n{result.err}"
    assert [list(answer) for answer in answers[0]["answers"]] == [["urgency"]]
    assert {entry["label"] for entry in answers[1]} == {"billing", "delivery", "account"}
    report = json.loads((desk / "runs" / "desk-and-mood" / "report.json").read_text())
    assert {head["task"]: head["is_copied"] for head in report["warm_start"]["heads"]} == {
        "intent": True, "urgency": True, "tone": True, "mood": False,
    }  # fmt: skip
    trained = [stage["name"] for stage in report["stages"] if stage["name"].startswith("teacher-")]
    assert len(trained) == 4


def test_the_recipes_of_the_page_are_named_like_their_runs() -> None:
    """Catches a page whose paths speak of another run than its recipe makes."""
    text = PAGE.read_text(encoding="utf-8")
    for block in blocks("yaml"):
        name = yaml.safe_load(block)["name"]
        assert block.startswith(f"# {name}.yaml\n")
        assert f"compressor run {name}.yaml" in text
