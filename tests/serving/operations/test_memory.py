"""Memory: flat under random lengths and over swaps, and within its bound."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOAK_SECONDS = 40.0
MIB = 1 << 20


def resident_mib(server: Any) -> float:
    """The server's resident set."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / MIB


@pytest.fixture
def bound_mib(bundle_folder: Path) -> float:
    """Twice the model file and 200 MiB."""
    return 2 * (bundle_folder / "model.fp32.onnx").stat().st_size / MIB + 200


@pytest.mark.slow
def test_memory_is_flat_under_random_lengths(
    serve_toy: Callable[..., Any], ask_all: Callable[..., list[Any]], bound_mib: float
) -> None:
    """A leak of one kilobyte per request kills a busy server within a day, and no shorter test sees it."""
    server = serve_toy()
    generator = random.Random(0)
    end = time.monotonic() + SOAK_SECONDS
    seen = []
    while time.monotonic() < end:
        texts = [
            [" ".join(["refund"] * generator.randint(1, 200)) for _ in range(generator.choice((1, 1, 1, 5, 60)))]
            for _ in range(300)
        ]
        ask_all(server.port, texts, 8)
        seen.append(resident_mib(server))
    half = seen[len(seen) // 2 :]
    assert max(half) <= 1.02 * half[0], seen
    assert max(seen) <= bound_mib


@pytest.mark.slow
def test_swaps_leave_nothing_behind(
    serve_toy: Callable[..., Any], bundle_folder: Path, tmp_path: Path, bound_mib: float
) -> None:
    """Each old bundle that stays is a model file of memory: after a week of deployments the container is killed."""
    server = serve_toy()
    newer = tmp_path / "newer"
    shutil.copytree(bundle_folder, newer)
    seen = []
    for number in range(30):
        assert server.call("/admin/swap", {"bundle": str((newer, bundle_folder)[number % 2])})[0] == 200
        assert server.predict("refund")[0] == 200
        seen.append(resident_mib(server))
    assert seen[-1] <= 1.02 * seen[len(seen) // 3], seen
    assert seen[-1] <= bound_mib
