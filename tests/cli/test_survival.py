"""What a run survives: a full disk, a killed neighbour, Ctrl-C, a missing package; by real kernel errors."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cli import main


@dataclass(frozen=True)
class Full:
    """Where a disk becomes full.

    Attributes:
        limit: bytes of a file; what fails is larger, what is written before it is smaller.
        before: commands that are done while there is space.
        seconds: between checkpoints of a training.
        stage: how the last line before the error begins.
    """

    limit: int
    before: tuple[str, ...]
    stage: str
    seconds: float = 60.0


FULL = {
    "graph": Full(60_000, ("distill",), "> exporting to ONNX"),
    "model": Full(60_000, (), "> fine-tuning the teacher"),
    "checkpoint": Full(200_000, (), "> fine-tuning the teacher", seconds=1e-3),
    "report": Full(1_000_000, ("export", "benchmark"), "= timing"),
}
PLACES = [pytest.param(place, marks=() if place == "graph" else pytest.mark.slow) for place in FULL]


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_is_one_line_and_the_same_command_continues(
    toy: Any, compressor: Callable[..., Any], compressor_process: Callable[..., Any], place: str
) -> None:
    """Catches a traceback of torch or safetensors, and a half-written file that blocks the next call."""
    case = FULL[place]
    toy.write(training={**toy.values()["training"], "checkpoint_seconds": case.seconds})
    command = [toy.recipe, "--output", toy.run]
    for name in case.before:
        assert compressor(name, *command).code == 0
    full = compressor_process("run", *command, preexec_fn=partial(limit_files, case.limit))
    assert full.code == 2, full.err
    assert "disk is full" in full.error
    assert [line for line in full.err.splitlines() if not line.startswith("WARNING")][-2].startswith(case.stage)
    finished = {path.name for path in (toy.run / "stages").glob("*-*") if not path.suffix}
    again = compressor("run", *command)
    assert again.code == 0, again.err
    assert again.err.count("done before") == len(finished)
    assert (toy.run / "report.html").is_file()


WRITERS: dict[str, Callable[[Path], object]] = {
    "python": lambda path: path.write_bytes(bytes(100_000)),
    "torch": lambda path: torch.save(torch.zeros(100_000), path),
    "torch, in pieces": lambda path: torch.save([torch.zeros(900) for _ in range(100)], path),
    "safetensors": lambda path: save_file({"zeros": torch.zeros(100_000)}, path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_librarys_word_for_a_full_disk_is_known(tmp_path: Path, writer: str) -> None:
    """Catches a full disk that is called a fault of this program, because a library wraps the kernel's error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        with pytest.raises(Exception) as caught:
            WRITERS[writer](tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert main._is_full_disk(caught.value), caught.value
    assert not main._is_full_disk(ValueError("expected 3 classes"))


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def hear_ctrl_c() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and so would be all that the tests start there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def started(toy: Any, script: Path) -> Callable[[], subprocess.Popen[str]]:
    """Starts a run that takes long, in a process of its own, and waits until its teacher is in training."""

    def start() -> subprocess.Popen[str]:
        toy.write(training={**toy.values()["training"], "epochs": 40})
        command = [str(script), "run", str(toy.recipe), "--output", str(toy.run)]
        process = subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c
        )
        wait_for(lambda: list(toy.run.glob("stages/teacher-*.partial/training.json")), process)
        return process

    return start


def test_a_killed_runs_lock_does_not_block_the_next(
    toy: Any, started: Callable[[], subprocess.Popen[str]], compressor: Callable[..., Any]
) -> None:
    """Catches a lock that outlives its owner: the next call would wait for ever."""
    process = started()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (lock,) = toy.run.glob("stages/.locks/teacher-*.lock")
    assert lock.read_text() == str(process.pid)
    done = compressor("teach", toy.recipe, "--output", toy.run)
    assert done.code == 0, done.err
    assert "waiting" not in done.err
    assert (toy.run / "stages" / lock.stem).is_dir()


def test_ctrl_c_says_that_the_run_can_be_continued(started: Callable[[], subprocess.Popen[str]]) -> None:
    """Catches a traceback, or a success, for a run that was stopped."""
    process = started()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: stopped; the same command continues")


WITHOUT = """
import sys
missing, sys.argv = sys.argv[1], ["compressor", *sys.argv[2:]]
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from cli.main import run_app
run_app()
"""


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("torch", ["run", "RECIPE"], "[train]"),
        ("pydantic", ["recipe", "--example"], "[train]"),
        ("onnxruntime", ["predict", "BUNDLE", "late"], "[cpu]"),
    ],
)
def test_a_missing_extra_prints_its_install_line(toy_run: Any, module: str, arguments: list[str], extra: str) -> None:
    """Catches a traceback on a serving host where somebody starts a training."""
    places = {"RECIPE": str(toy_run.recipe), "BUNDLE": str(toy_run.run / "bundle")}
    words = [places.get(word, word) for word in arguments]
    command = [sys.executable, "-c", WITHOUT, module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: this needs the package '{module}'")
    assert f"pip install 'compressor-toolchain{extra}'" in line
