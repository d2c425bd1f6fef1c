"""What a run survives: a full disk, a killed neighbour, Ctrl-C, a missing package. Real processes, real kernel errors."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

# What the toy run writes is first larger than this: in a model file, a Trainer checkpoint, a graph, the report.
LIMITS = {"model": 60_000, "checkpoint": 200_000, "graph": 140_000, "report": 1_000_000}
PLACES = [pytest.param(place, marks=() if place == "graph" else pytest.mark.slow) for place in LIMITS]


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_is_one_line_and_the_same_command_continues(
    toy: Any, compressor: Callable[..., Any], compressor_process: Callable[..., Any], place: str
) -> None:
    """Catches a traceback of torch or safetensors, and a half-written file that blocks the next call."""
    checkpoint_seconds = 1e-3 if place == "checkpoint" else 60.0
    toy.write(training={**toy.values()["training"], "checkpoint_seconds": checkpoint_seconds})
    full = compressor_process(
        "run", toy.recipe, "--output", toy.run, preexec_fn=partial(limit_files, LIMITS[place])
    )
    assert full.code == 2, full.err
    assert "disk is full" in full.error
    done_before = {path.name for path in (toy.run / "stages").glob("*-*") if not path.suffix}
    again = compressor("run", toy.recipe, "--output", toy.run)
    assert again.code == 0, again.err
    assert again.err.count("done before") == len(done_before)
    assert (toy.run / "report.json").is_file()


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def started(toy: Any, script: Path) -> Callable[[], subprocess.Popen[str]]:
    """Starts a run that takes long, in a process of its own, and waits until its teacher is in training."""

    def start() -> subprocess.Popen[str]:
        toy.write(training={**toy.values()["training"], "epochs": 400})
        command = [str(script), "run", str(toy.recipe), "--output", str(toy.run)]
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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
    assert list(toy.run.glob("stages/.locks/teacher-*.lock"))
    toy.write()
    done = compressor("teach", toy.recipe, "--output", toy.run)
    assert done.code == 0, done.err
    assert "waiting" not in done.err


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
