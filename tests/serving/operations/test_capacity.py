"""Lanes and threads that a server chooses by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.bundle import Bundle
from serving.operations.capacity import Capacity, choose_capacity
from serving.operations.server import open_engine
from serving.operations.settings import ServerSettings

PRINT_LANES = """
from serving.operations.capacity import choose_capacity
from serving.operations.settings import ServerSettings
print(choose_capacity(ServerSettings()).lanes)
"""


@pytest.fixture
def quota(tmp_path: Path) -> Path:
    """A root folder whose cgroup allows 6.5 CPUs."""
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("650000 100000\n")
    return tmp_path


def test_lanes_fill_the_smaller_of_affinity_and_quota(quota: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More lanes than CPUs are stopped by the kernel in the middle of a call: the p99 becomes the quota's period."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    chosen = choose_capacity(ServerSettings(threads=2), quota)
    assert (chosen.lanes, chosen.threads) == (3, 2)
    assert "16 CPU" in chosen.reason
    assert "6.5" in chosen.reason
    assert choose_capacity(ServerSettings(), quota).lanes == 6
    assert choose_capacity(ServerSettings(threads=4), quota).lanes == 1, "the rest of the CPUs is no whole lane"


def test_settings_win_and_say_so(quota: Path) -> None:
    """A measured number must not be corrected behind its owner's back."""
    assert choose_capacity(ServerSettings(lanes=9), quota) == Capacity(9, 1, "as the settings say")
    assert choose_capacity(ServerSettings(lanes=2, device="cuda"), quota).lanes == 2


def test_there_is_always_one_lane(quota: Path) -> None:
    """More threads than CPUs would else divide to no lane at all, and every request would wait for ever."""
    assert choose_capacity(ServerSettings(threads=64), quota).lanes == 1


def test_a_gpu_has_one_compute_lane(quota: Path) -> None:
    """Calls on one GPU wait for one another; lanes would only multiply its memory."""
    chosen = choose_capacity(ServerSettings(device="cuda", threads=3), quota)
    assert (chosen.lanes, chosen.threads) == (1, 3)
    assert "cuda" in chosen.reason


def test_the_engine_gets_the_capacity_and_what_suits_its_device(bundle_folder: Path) -> None:
    """Tokenisers beside lanes on a CPU take time from them; a GPU that tokenises in its one lane stands still."""
    bundle, capacity = Bundle.load(bundle_folder), Capacity(3, 2, "")
    settings = open_engine(bundle, capacity, ServerSettings(stall_seconds=7.0)).settings
    assert (settings.lanes, settings.threads, settings.stall_seconds) == (3, 2, 7.0)
    on_gpu = open_engine(bundle, capacity, ServerSettings(device="cuda")).settings
    assert settings.tokenisers == 0 < on_gpu.tokenisers
    assert settings.batch_tokens < on_gpu.batch_tokens


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no affinity here")
def test_one_core_means_one_lane() -> None:
    """Catches counting the machine's CPUs instead of the process's: what `taskset` and containers set."""
    core = min(os.sched_getaffinity(0))
    done = subprocess.run(
        ["taskset", "-c", str(core), sys.executable, "-c", PRINT_LANES], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
