"""`compressor compare` in several processes, and after some of them were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

METHODS = "none,kd"


@pytest.mark.slow
def test_two_jobs_train_the_same_weights(compared: Any, tmp_path: Path, compressor: Callable[..., Any]) -> None:
    """Catches workers that train with other threads or seeds than one process does."""
    folder = tmp_path / "parallel"
    command = ["compare", compared.toy.recipe, "--methods", METHODS, "--seeds", 1, "--output", folder]
    done = compressor(*command, "--jobs", 2, "--json")
    assert done.code == 0, done.err
    alone = compared.weights()
    assert replace(compared, folder=folder).weights() == {name: alone[name] for name in ("kd-0", "none-0")}
    assert (folder / "cells" / "kd-0" / "output.log").read_text().count("> training the student") == 1
    assert "> training the student" not in done.err


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
    recipe = toy.write(training={**toy.values()["training"], "learning_rate": 5e-4, "epochs": 20})
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
    before = {name for name in toy.stages() if not name.endswith(".partial")}
    done = compressor(*command)
    assert done.code == 0, done.err
    assert before <= set(toy.stages())
    assert not list(toy.run.glob("stages/*.partial"))
