"""A real kill -9, and the same command again: the weights must be those of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compressor.data.splits import TaskData, save_task_data

# Saving is slowed down so that a kill in the middle of a checkpoint is certain and not a matter of luck.
CHILD = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
from compressor.data.splits import load_task_data, training_texts
from compressor.distillation.plan import build_plan
from compressor.distillation.presets import parse_method_text
from compressor.distillation.training import TrainingJob, train
from compressor.models.initialise import load_tokenizer, pretrained_model
from compressor.recipe import TrainingSettings

folder, data_folder, checkpoint = map(Path, sys.argv[1:4])
save = torch.save
def slow_save(*args, **kwargs):
    time.sleep(0.03)
    save(*args, **kwargs)
torch.save = slow_save
data = load_task_data(data_folder)
methods = parse_method_text(sys.argv[5])
patience = None if "swa" in methods else 3
settings = TrainingSettings(epochs=4, learning_rate=1e-3, batch_size=8, gradient_accumulation=2, dtype="fp32",
                            device="cpu", threads=1, early_stopping=patience, checkpoint_seconds=float(sys.argv[4]))
targets = np.random.default_rng(0).normal(size=(len(training_texts(data)), 3)).astype(np.float32)
job = TrainingJob(pretrained_model(str(checkpoint), [data.task], layers=2, seed=0), load_tokenizer(str(checkpoint)),
                  {"topic": data}, {"topic": targets}, build_plan(methods, patience=patience), settings, 32, 0, "toy")
train(job, folder)
"""


@dataclass(frozen=True)
class Inputs:
    """What all runs of a test read."""

    data: Path
    checkpoint: Path
    methods: str


def start(folder: Path, inputs: Inputs, seconds: float) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", CHILD, str(folder), str(inputs.data), str(inputs.checkpoint), str(seconds)]
    command.append(inputs.methods)
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def checkpoints(folder: Path, *, complete: bool) -> list[Path]:
    found = (folder / "checkpoints").glob("checkpoint-*")
    return [path for path in found if (path / "complete").is_file() is complete]


def kill_when(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> bool:
    """Kill as soon as the condition holds; False if the process ended before."""
    while process.poll() is None:
        if condition():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.001)
    assert process.returncode == 0
    return False


# The first with early stopping, the second with a past student and an average.
METHODS = [pytest.param("kd", marks=pytest.mark.slow), "kd+sda:k=all+swa:every=1:keep=selected"]


@pytest.fixture(params=METHODS)
def reference(
    request: pytest.FixtureRequest, tmp_path: Path, toy_data: TaskData, checkpoint: Callable[..., Path]
) -> tuple[Path, Inputs]:
    """An uninterrupted run, and what it read."""
    save_task_data(tmp_path / "data", toy_data)
    inputs = Inputs(tmp_path / "data", checkpoint(), request.param)
    assert start(tmp_path / "whole", inputs, 3600.0).wait() == 0
    return tmp_path / "whole", inputs


def assert_same_run(first: Path, second: Path) -> None:
    written = sorted(path.relative_to(first) for path in first.rglob("model.safetensors"))
    assert written == sorted(path.relative_to(second) for path in second.rglob("model.safetensors"))
    for name in written:
        expected, found = load_file(first / name), load_file(second / name)
        assert expected.keys() == found.keys()
        assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    histories = [json.loads((folder / "history.json").read_text()) for folder in (first, second)]
    evaluated = [[row for row in history["curve"] if "eval_score" in row] for history in histories]
    assert evaluated[0] == evaluated[1]
    assert histories[0].get("swa") == histories[1].get("swa")


def test_killed_between_and_inside_checkpoints_it_ends_with_the_same_weights(
    reference: tuple[Path, Inputs], tmp_path: Path
) -> None:
    """Catches lost random states, optimizer moments, batches, early-stopping counters, and half-written checkpoints."""
    whole, inputs = reference
    folder = tmp_path / "killed"
    inside = kill_when(
        start(folder, inputs, 0.05),
        lambda: bool(checkpoints(folder, complete=True) and checkpoints(folder, complete=False)),
    )
    assert inside
    assert checkpoints(folder, complete=False)
    before = {path.name for path in checkpoints(folder, complete=True)}
    later = kill_when(
        start(folder, inputs, 0.05),
        lambda: bool({path.name for path in checkpoints(folder, complete=True)} - before),
    )
    assert later
    assert start(folder, inputs, 0.05).wait() == 0
    assert_same_run(whole, folder)


@pytest.mark.slow
def test_a_storm_of_kills_at_random_moments_changes_nothing(reference: tuple[Path, Inputs], tmp_path: Path) -> None:
    """Catches a moment that the two chosen ones missed."""
    whole, inputs = reference
    folder, moments = tmp_path / "storm", random.Random(0)
    kills = 0
    for _ in range(8):
        killed = kill_when(start(folder, inputs, 0.02), after_progress(folder, moments.uniform(0.0, 0.4)))
        kills += killed
        if not killed:
            break
    assert kills >= 2
    assert start(folder, inputs, 0.02).wait() == 0
    assert_same_run(whole, folder)


def after_progress(folder: Path, seconds: float) -> Callable[[], bool]:
    """True so many seconds after the training went beyond the checkpoints that are there now."""
    before = {path.name for path in checkpoints(folder, complete=True)}
    since: list[float] = []

    def reached() -> bool:
        if not since and {path.name for path in checkpoints(folder, complete=True)} - before:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= seconds

    return reached
