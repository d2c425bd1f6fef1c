"""A finished toy run, and the console script called in this process (importing torch takes seconds) or in its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cli.main import run_app

SCRIPT = Path(sys.executable).with_name("compressor")
TRAINING = {"epochs": 1, "batch_size": 32, "dtype": "fp32", "threads": 1}
BENCHMARK = {"rounds": 3, "texts": 8, "threads": [1], "batch_sizes": [1], "waterfall_seconds": 0}


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error line; fails when there is another number of them, or a traceback."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        return lines[0]


def call(*arguments: object, stdin: str = "") -> Result:
    """`compressor ARGUMENTS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["compressor", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_app()
        except SystemExit as stop:
            code = stop.code
    return Result(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def call_process(*arguments: object, **options: Any) -> Result:
    """`compressor ARGUMENTS` in a process of its own."""
    done = subprocess.run(
        [str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **options
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def compressor() -> Callable[..., Result]:
    return call


@pytest.fixture(scope="session")
def compressor_process() -> Callable[..., Result]:
    return call_process


@pytest.fixture(scope="session")
def script() -> Path:
    return SCRIPT


@dataclass(frozen=True)
class Toy:
    """A folder with the toy data and a recipe for them.

    Attributes:
        folder: holds `toy.jsonl`, `toy.yaml` and, once it was run, `run/`.
        model: a tiny random BERT.
    """

    folder: Path
    model: Path

    @property
    def data(self) -> Path:
        """The rows."""
        return self.folder / "toy.jsonl"

    @property
    def recipe(self) -> Path:
        """The recipe file."""
        return self.folder / "toy.yaml"

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    def values(self, **changes: Any) -> dict[str, Any]:
        """The recipe as plain values, with some keys of its first level replaced."""
        return {
            "name": "toy",
            "tasks": {"topic": {"data": str(self.data), "text": "text", "label": "topic"}},
            "max_length": 64,
            "teacher": {"model": str(self.model)},
            "student": {"layers": 2},
            "training": TRAINING,
            "gates": {"allow_inconclusive": True, "quantisation_metric_drop": 0.5},
            "benchmark": BENCHMARK,
            **changes,
        }

    def write(self, **changes: Any) -> Path:
        """Write `toy.yaml` with some keys of its first level replaced."""
        self.recipe.write_text(yaml.safe_dump(self.values(**changes), sort_keys=False))
        return self.recipe

    def write_data(self, rows: list[dict[str, Any]], name: str = "toy.jsonl") -> Path:
        """Write rows as jsonl beside the recipe."""
        path = self.folder / name
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        return path

    def stages(self) -> dict[str, int]:
        """Every finished stage folder with the time of its last change."""
        folders = (self.run / "stages").iterdir()
        return {path.name: path.stat().st_mtime_ns for path in folders if path.name != ".locks"}

    def new_stages(self, before: dict[str, int]) -> set[str]:
        """Names, without keys, of the stages that were not there before; the old ones must be untouched."""
        after = self.stages()
        assert {name: after.get(name) for name in before} == before
        return {name.rpartition("-")[0] for name in after.keys() - before.keys()}

    def report(self) -> dict[str, Any]:
        """The finished report.json."""
        found: dict[str, Any] = json.loads((self.run / "report.json").read_text())
        return found


@pytest.fixture(scope="session")
def toy_model(checkpoint: Callable[..., Path]) -> Path:
    return checkpoint()


@pytest.fixture(scope="session")
def make_toy(toy_model: Path, make_rows: Callable[..., Any]) -> Callable[[Path], Toy]:
    """A factory: folder -> data and recipe in it, nothing run yet."""

    def make(folder: Path) -> Toy:
        made = Toy(folder, toy_model)
        made.write_data(make_rows(240))
        made.write()
        return made

    return make


@pytest.fixture
def toy(tmp_path: Path, make_toy: Callable[[Path], Toy]) -> Toy:
    """Data and recipe, nothing run yet."""
    return make_toy(tmp_path)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, make_toy: Callable[[Path], Toy]) -> Toy:
    """A finished run, for reading only."""
    made = make_toy(tmp_path_factory.mktemp("toy"))
    done = call("run", made.recipe, "--output", made.run)
    assert done.code == 0, done.err
    return made


@pytest.fixture
def own_run(toy_run: Toy, tmp_path: Path) -> Toy:
    """A copy of the finished run, to be changed; its recipe reads the same data as the original."""
    folder = tmp_path / "toy"
    shutil.copytree(toy_run.folder, folder, symlinks=True)
    return Toy(folder, toy_run.model)


@pytest.fixture(scope="session")
def skilled(checkpoint: Callable[..., Path], make_rows: Callable[..., Any]) -> Path:
    """A fine-tuned toy teacher that is right on most texts, its outputs in the order delivery, account, billing."""
    labels = ("delivery", "account", "billing")
    folder = checkpoint(labels=labels)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = make_rows(120, seed=9)
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    targets = torch.tensor([labels.index(row["topic"]) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(40):
            model(**inputs, labels=targets).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path) -> Iterator[None]:
    """Commands write below the working directory; none of them may write into the repository."""
    before = Path.cwd()
    place = tmp_path / "here"
    place.mkdir()
    os.chdir(place)
    yield
    os.chdir(before)


@pytest.fixture
def serve() -> Iterator[Callable[[list[str]], str]]:
    """Starts a documented `compressor serve` on a free port, says where it listens, and stops it after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(words: list[str]) -> str:
        words[words.index("--port") + 1] = "0"
        process = subprocess.Popen([str(SCRIPT), *words[1:]], stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"listening on http://(\S+)", line):
                return found[1]
        raise AssertionError("the server ended before it listened")

    yield start
    for process in started:
        assert process.poll() is None, "the server ended by itself"
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0


def sent_to(address: str, words: list[str]) -> list[str]:
    """A documented request for a server that listens elsewhere than documented."""
    (place,) = (index for index, word in enumerate(words) if word.startswith(("localhost:", "http://")))
    url = urlsplit(words[place] if "//" in words[place] else f"http://{words[place]}")
    return [*words[:place], url._replace(scheme="http", netloc=address).geturl(), *words[place + 1 :]]
