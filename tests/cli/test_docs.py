"""Every command that the docs show is run, on toy data under the names that the docs use."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import sent_to

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FAST = [
    "training.epochs=1",
    "teacher.epochs=1",
    "benchmark.rounds=3",
    "benchmark.texts=4",
    "benchmark.threads=[1]",
    "benchmark.batch_sizes=[1]",
    "training.dtype=fp32",
    "training.threads=1",
    "gates.quantisation_metric_drop=1.0",
    "max_length=32",
]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def desk(tmp_path: Path, toy_file: Path, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the docs speak of."""
    model = str(checkpoint())
    rows = [json.loads(line) for line in toy_file.read_text().splitlines()]
    lines = ["text,topic", *(f"{row['text']},{row['topic']}" for row in rows)]
    (tmp_path / "tickets.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "path" / "to").mkdir(parents=True)
    shutil.copytree(model, tmp_path / "path" / "to" / "checkpoint")
    recipe = {
        "name": "tickets",
        "tasks": {"topic": {"data": "tickets.csv", "text": "text", "label": "topic"}},
        "teacher": {"model": model},
        "student": {"layers": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(desk: Path, compressor: Callable[..., Any]) -> Callable[[str], Any]:
    """Runs a documented command; ours in this process, because importing torch takes seconds."""

    def run(command: str) -> Any:
        words = shortened(command, desk / "path" / "to" / "checkpoint")
        if words[0] == "compressor":
            return compressor(*words[1:])
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def shortened(command: str, teacher: Path) -> list[str]:
    """A documented command, made short where the real one is long."""
    words = shlex.split(command)
    if words[:2] == ["compressor", "export"]:  # of a toy validation split, int8 answers cannot be told well enough
        words.append("--allow-inconclusive")
    if words[:2] in (["compressor", "run"], ["compressor", "compare"]):
        words += [word for key in FAST if not any(key.split("=")[0] in w for w in words) for word in ("--set", key)]
        if "--seeds" in words:
            words[words.index("--seeds") + 1] = "1"
        if "--data" in words:
            words += ["--teacher", str(teacher)]
    return words


@pytest.mark.skipif(shutil.which("curl") is None, reason="the documented request is made with curl")
def test_every_documented_command_works_in_the_order_of_the_readme(
    desk: Path, run: Callable[[str], Any], serve: Callable[[list[str]], str]
) -> None:
    """Catches docs that have drifted from the program: renamed options, moved files, wrong paths."""
    shown = commands(ROOT / "README.md")
    assert len(shown) >= 9
    address = ""
    for command in shown:
        if command == "compressor demo":
            continue
        if command.startswith("compressor serve"):
            address = serve(shlex.split(command))
            continue
        result = run(shlex.join(sent_to(address, shlex.split(command))) if command.startswith("curl") else command)
        assert result.code == 0, f"{command}\n{result.out}\n{result.err}"
        if command.startswith("curl"):
            assert json.loads(result.out)["answers"][0]["topic"]["label"]
        if command.startswith("compressor run") and "recipe.yaml" in command:
            assert (desk / "runs" / "tickets" / "report.html").is_file()


@pytest.mark.slow
def test_every_documented_comparison_works(desk: Path, toy_file: Path, run: Callable[[str], Any]) -> None:
    """Catches options of `compare`, and arms of a file, that the docs no longer spell as the program does."""
    page = ROOT / "docs" / "compare.md"
    recipe = yaml.safe_load((desk / "recipe.yaml").read_text())
    labels = ("topic", "urgency")
    tasks = {label: {"data": str(toy_file), "text": "text", "label": label} for label in labels}
    (desk / "tasks.yaml").write_text(yaml.safe_dump({**recipe, "name": "tasks", "tasks": tasks}))
    (arms,) = re.findall(r"^```yaml\n(Multi->Multi.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    (desk / "ablations.yaml").write_text(arms)
    for command in commands(page):
        result = run(command)
        assert result.code == 0, f"{command}\n{result.out}\n{result.err}"
    for name in ("tickets", "tasks"):
        assert (desk / "comparisons" / name / "comparison.html").is_file()


def test_every_command_of_the_docs_exists() -> None:
    """Catches a documented `make` target, script or command that is not there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"\bmake ([a-z-]+)", _code(text))) <= targets, page
        for script in re.findall(
            r"\b(benchmarks/\w+\.py|benchmarks/(?:results|recipes)/\w+\.\w+|scripts/[\w-]+)", text
        ):
            assert (ROOT / script).is_file(), f"{page}: {script}"


def test_links_between_pages_lead_somewhere() -> None:
    """Catches links to pages that were moved or never written."""
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


def _code(text: str) -> str:
    """Fenced blocks and inline code only: prose may say make."""
    found = re.findall(r"^```[a-z]*\n(.*?)^```|`([^`\n]+)`", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(block or inline for block, inline in found)
