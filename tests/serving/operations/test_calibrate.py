"""Calibration: what is measured, what is chosen, and that the server can use and doubt what was written."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.bundle import Bundle
from serving.engine.contract import Answered, Work
from serving.engine.dummy import DummyEngine
from serving.host import available_cpus
from serving.operations import calibrate as calibration
from serving.operations.calibrate import Cell, calibrate, calibration_warning, cells_of, choose, load, table
from serving.operations.settings import Limits, ServerSettings, load_settings, read_calibration


@pytest.mark.parametrize(
    ("cpus", "cells"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1), (2, 1), (1, 2)]),
        (6, [(3, 1), (6, 1), (1, 2), (3, 2), (1, 4)]),
        (8, [(4, 1), (8, 1), (2, 2), (4, 2), (1, 4), (2, 4), (1, 8)]),
    ],
)
def test_cells_use_all_cpus_and_half_of_them(cpus: int, cells: list[tuple[int, int]]) -> None:
    """A cell with more threads than CPUs measures the kernel's scheduler."""
    assert cells_of(cpus) == cells
    assert all(lanes * threads <= cpus for lanes, threads in cells)


def cell(lanes: int, threads: int, rate: float, p99: float) -> Cell:
    """A measured cell."""
    return Cell(lanes, threads, rate, 1.0, p99, 100)


def test_the_highest_rate_wins_and_latency_decides_between_equals() -> None:
    """One percent more throughput must not cost twice the p99."""
    slow, equal, best, few = cell(1, 1, 500, 1), cell(2, 1, 990, 4), cell(1, 2, 1000, 9), cell(1, 4, 985, 4)
    assert choose([slow, best]) is best
    assert choose([slow, equal, best]) is equal
    assert choose([best, few, equal]) is few
    assert ["<- chosen" in line for line in table([slow, equal], equal)] == [False, False, True]


class RoundsEngine(DummyEngine):
    """Answers three requests together, and each such round lasts a quarter of a second of its own clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._num_waiting = 0
        self._round = asyncio.Event()

    async def answer(self, work: Work) -> Answered:
        """Wait for the two others."""
        own, self._num_waiting = self._round, self._num_waiting + 1
        if self._num_waiting == 3:
            self.now += 0.25
            self._num_waiting, self._round = 0, asyncio.Event()
            own.set()
        await own.wait()
        return await super().answer(work)


def test_a_closed_load_keeps_its_number_of_requests_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells under unlike loads cannot be compared."""
    engine = RoundsEngine()
    clock = SimpleNamespace(perf_counter=lambda: engine.now, monotonic=time.monotonic)
    monkeypatch.setattr(calibration, "time", clock)
    latencies = asyncio.run(asyncio.wait_for(load(engine, [("a",), ("b",)], 3, 1.25), 20))
    assert latencies == [0.25] * 15
    assert {work.texts[0][0] for work in engine.received} == {"a", "b"}


def test_what_was_measured_is_served_and_doubted_elsewhere(bundle_folder: Path, tmp_path: Path) -> None:
    """Another machine's best number of lanes is a guess; it must not pass for a measurement."""
    said: list[str] = []
    file = tmp_path / "serve.toml"
    settings = ServerSettings(precision="int8", limits=Limits(texts=5))
    chosen = calibrate(bundle_folder, settings, file, said.append, seconds_per_round=0.05)
    assert load_settings(file) == chosen
    assert (chosen.precision, chosen.limits.texts) == ("int8", 5)
    assert (chosen.lanes, chosen.threads) in cells_of(available_cpus())
    assert len(said) == len(cells_of(available_cpus())) + 2
    found = read_calibration(file)
    assert found is not None
    assert all(row["texts_per_second"] > 0 and row["samples"] > 0 for row in found["cells"])
    assert calibration_warning(found, Bundle.load(bundle_folder, "int8")) is None
    assert "another model" in str(calibration_warning(found, Bundle.load(bundle_folder, "fp32")))
    elsewhere = found | {"machine": found["machine"] | {"available_cpus": 96}}
    assert "another machine" in str(calibration_warning(elsewhere, Bundle.load(bundle_folder, "int8")))
