"""Which number of lanes and threads serves most on this machine: measured with the bundle's golden texts.

Every cell gets the same closed load, as many requests in flight as two for each CPU, so that their rates and
percentiles can be compared; the cells take turns, so that a busy neighbour does not strike one alone.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from serving.bundle import Bundle
from serving.engine.contract import Engine, Work
from serving.golden import read_golden
from serving.host import available_cpus, cpu_model, describe_host
from serving.operations.capacity import Capacity
from serving.operations.settings import ServerSettings, write_settings
from serving.operations.web import event_loop_factory
from serving.tokenise import tokenise_without_threads

ROUNDS = 3
SECONDS_PER_ROUND = 1.0
WARM_SECONDS = 0.3
REQUESTS_PER_CPU = 2
TIE = 0.03
"""Rates that differ by less count as equal: then the lower p99 decides, then fewer lanes."""

Texts = Sequence[tuple[str, ...]]


class Cell(msgspec.Struct, frozen=True):
    """What one pair of lanes and threads reached."""

    lanes: int
    threads: int
    texts_per_second: float
    p50_ms: float
    p99_ms: float
    samples: int


class Calibration(msgspec.Struct, frozen=True):
    """The figures behind a settings file, with the machine and the artifact they hold for."""

    bundle: str
    artifact_sha256: str
    requests_in_flight: int
    cells: tuple[Cell, ...]
    machine: dict[str, Any]


def calibrate(
    bundle_folder: Path,
    settings: ServerSettings,
    file: Path,
    say: Callable[[str], None] = print,
    *,
    seconds_per_round: float | None = None,
) -> ServerSettings:
    """Measure, print a table, and write the settings with the best lanes and threads.

    Args:
        bundle_folder: the bundle.
        settings: what else is written to the file; its precision and device are measured.
        file: TOML or JSON, by its suffix; replaced when it is there.
        say: takes the lines of the table.
        seconds_per_round: each cell has `ROUNDS` of them; None for `SECONDS_PER_ROUND`.

    Raises:
        UserError: the bundle was refused, or the file cannot be written.
    """
    tokenise_without_threads()
    texts = read_golden(bundle_folder).texts
    cpus = available_cpus()
    in_flight = REQUESTS_PER_CPU * cpus
    with _engines(bundle_folder, settings, cells_of(cpus)) as engines:
        with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
            cells = runner.run(_measure(engines, texts, in_flight, seconds_per_round or SECONDS_PER_ROUND))
        bundle = engines[0][1].bundle
    best = choose(cells)
    for line in table(cells, best):
        say(line)
    found = Calibration(bundle.manifest.name, bundle.artifact.sha256, in_flight, tuple(cells), describe_host())
    chosen = msgspec.structs.replace(settings, lanes=best.lanes, threads=best.threads)
    write_settings(file, chosen, msgspec.to_builtins(found))
    say(f"wrote {file}; use it: compressor serve {bundle_folder} --settings {file}")
    return chosen


def cells_of(cpus: int) -> list[tuple[int, int]]:
    """The (lanes, threads) to measure: all CPUs used by lanes of 1, 2, 4, ... threads, and half of them."""
    threads = [2**power for power in range(cpus.bit_length()) if 2**power <= cpus]
    cells = {(max(1, share // count), count) for count in threads for share in (cpus, cpus // 2) if share >= count}
    return sorted(cells, key=lambda cell: (cell[1], cell[0]))


def choose(cells: Sequence[Cell]) -> Cell:
    """The highest rate; among rates within `TIE` of it the lowest p99, then the fewest lanes."""
    highest = max(cell.texts_per_second for cell in cells)
    good = [cell for cell in cells if cell.texts_per_second >= (1 - TIE) * highest]
    return min(good, key=lambda cell: (cell.p99_ms, cell.lanes))


def table(cells: Sequence[Cell], best: Cell) -> list[str]:
    """The cells as lines of text."""
    lines = ["lanes  threads  texts/s  p50, ms  p99, ms"]
    for cell in cells:
        mark = "  <- chosen" if cell == best else ""
        lines.append(
            f"{cell.lanes:5}  {cell.threads:7}  {cell.texts_per_second:7.0f}  {cell.p50_ms:7.2f}  "
            f"{cell.p99_ms:7.2f}{mark}"
        )
    return lines


def calibration_warning(calibration: dict[str, Any], bundle: Bundle) -> str | None:
    """What makes a calibration stale for this bundle on this machine; None when it holds."""
    machine = calibration.get("machine", {})
    here = (cpu_model(), available_cpus())
    there = (machine.get("cpu_model"), machine.get("available_cpus"))
    if here != there:
        return f"the calibration was made on another machine ({there[0]}, {there[1]} CPUs); run --calibrate again"
    if calibration.get("artifact_sha256") != bundle.artifact.sha256:
        return "the calibration was made with another model; run --calibrate again"
    return None


@contextmanager
def _engines(folder: Path, settings: ServerSettings, cells: Sequence[tuple[int, int]]) -> Iterator[list[Any]]:
    """A started engine for each (lanes, threads); engines of the same threads share a session."""
    from serving.operations.server import open_engine

    bundles = {
        threads: Bundle.load(folder, settings.precision, threads=threads, device=settings.device)
        for threads in {threads for _, threads in cells}
    }
    engines = []
    try:
        for lanes, threads in cells:
            engine = open_engine(bundles[threads], Capacity(lanes, threads, "calibration"), settings)
            engine.start()
            engines.append(((lanes, threads), engine))
        yield engines
    finally:
        for _, engine in engines:
            engine.close()


async def _measure(
    engines: Sequence[tuple[tuple[int, int], Engine]], texts: Texts, in_flight: int, seconds: float
) -> list[Cell]:
    latencies: dict[tuple[int, int], list[float]] = {cell: [] for cell, _ in engines}
    elapsed = dict.fromkeys(latencies, 0.0)
    for _, engine in engines:
        await load(engine, texts, in_flight, WARM_SECONDS)
    for _ in range(ROUNDS):
        for cell, engine in engines:
            start = time.perf_counter()
            latencies[cell] += await load(engine, texts, in_flight, seconds)
            elapsed[cell] += time.perf_counter() - start
    return [_cell(cell, latencies[cell], elapsed[cell]) for cell, _ in engines]


async def load(engine: Engine, texts: Texts, in_flight: int, seconds: float) -> list[float]:
    """Latencies, in seconds, of a closed load of single texts.

    Args:
        engine: started.
        texts: taken in turn.
        in_flight: requests at the same time.
        seconds: how long new requests are made; at least one is.
    """
    end = time.perf_counter() + seconds
    turns = itertools.cycle(texts)
    latencies: list[float] = []

    async def client() -> None:
        while True:
            start = time.perf_counter()
            await engine.answer(Work(texts=(next(turns),), tasks=None, deadline=time.monotonic() + 60))
            latencies.append(time.perf_counter() - start)
            if time.perf_counter() >= end:
                return

    await asyncio.gather(*(client() for _ in range(in_flight)))
    return latencies


def _cell(cell: tuple[int, int], latencies: Sequence[float], elapsed: float) -> Cell:
    p50, p99 = np.percentile(np.asarray(latencies) * 1e3, [50, 99])
    return Cell(*cell, len(latencies) / elapsed, float(p50), float(p99), len(latencies))
