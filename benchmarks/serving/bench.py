"""One server at a time on the server's CPUs, the generator on others: starts, checks, pauses and measures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.serving.answers import check_server, expected_answers, is_answered
from benchmarks.serving.bare import BarePlan, BareResult
from benchmarks.serving.generate import Generated, Plan
from benchmarks.serving.processes import ServerProcess, run_module
from benchmarks.serving.servers import Server
from benchmarks.serving.store import Cell, Store
from benchmarks.serving.undisturbed import undisturbed
from export.benchmark.conditions import Watch

CHECKED_TEXTS = 24
WARM_UP_SECONDS = 1.0
"""A closed loop after a start; counts nowhere."""
PRIMING_SECONDS = 0.3
PRIMING_RATE = 40.0
RECOVERY_SECONDS = 20.0
RECOVERED_ANSWERS = 3
CLOSED_LOOPS = ("closed", "guess")
"""Kinds of cells that have no rate."""


@dataclass(frozen=True)
class Setting:
    """What all cells share.

    Attributes:
        bundle: the folder that all serve.
        precision: of the artifact.
        texts: of which each request carries one.
        server_cpus: of the measured server, and of the bare loop.
        client_cpus: of the generator.
        limit_seconds: an answer that took longer is worth nothing.
        seconds: length of a cell.
        min_samples: a cell of a slow server lasts longer, up to three times, to send so many.
    """

    bundle: Path
    precision: str
    texts: tuple[str, ...]
    server_cpus: frozenset[int]
    client_cpus: frozenset[int]
    limit_seconds: float = 0.05
    seconds: float = 4.0
    min_samples: int = 500


class Bench:
    """The running servers; all but the measured one are stopped by signal."""

    def __init__(self, setting: Setting, servers: Sequence[Server], store: Store, logs: Path) -> None:
        """Start nothing yet.

        Args:
            setting: what all cells share.
            servers: to measure.
            store: takes facts and cells.
            logs: folder for what the servers print.
        """
        self.setting = setting
        self.servers = {server.name: server for server in servers}
        self.store = store
        self._logs = logs
        self._processes: dict[str, ServerProcess] = {}
        self._bodies = [json.dumps({"text": text}) for text in setting.texts]
        self._expected = expected_answers(setting.bundle, setting.precision, setting.texts)

    def __enter__(self) -> Bench:
        """Start nothing yet: `start_anew` does."""
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        """End every server."""
        for process in self._processes.values():
            process.stop()

    def start_anew(self, names: Sequence[str]) -> None:
        """End every server, then start, check and pause the named ones, one after the other."""
        for name in list(self._processes):
            self._processes[name].stop()
            del self._processes[name]
        for name in names:
            self._start(name)

    @property
    def closed_seconds(self) -> float:
        """Length of a closed-loop cell."""
        return self.setting.seconds / 2

    def resume(self, name: str) -> None:
        """Let one server run, started anew if it has ended, and send it a few requests that count nowhere."""
        if not self._processes[name].is_alive:
            self._start(name)
        self._processes[name].resume()
        self._generate(self._plan(name, rate=PRIMING_RATE, seconds=PRIMING_SECONDS, seed=1))

    def pause(self, name: str) -> None:
        """Hold one server."""
        self._processes[name].pause()

    def measure(self, name: str, kind: str, rate: float, round_number: int) -> Cell:
        """One cell of a server that runs; repeated when it was disturbed.

        Args:
            name: of the server.
            kind: those of `CLOSED_LOOPS` measure without a rate, with four requests under way.
            rate: requests per second.
            round_number: the same texts and times (but for the rate) in all cells of a kind in a round.
        """
        seconds = self.setting.seconds
        if kind not in CLOSED_LOOPS:
            seconds = min(max(seconds, self.setting.min_samples / rate), 3 * seconds)
        plan = self._plan(name, rate=rate, seconds=seconds, seed=1000 * round_number + _seed_of(kind))
        if kind in CLOSED_LOOPS:
            plan = msgspec.structs.replace(plan, mode="closed", seconds=self.closed_seconds)

        def measure() -> tuple[Generated, float | None]:
            return self._generate(plan), self._recover(name)

        measured = undisturbed(measure, self._watch, lambda found: found[0].summary.is_valid)
        generated, recovery = measured.found
        return Cell(
            round=round_number,
            server=name,
            kind=kind,
            rate=rate,
            cpu_ms=generated.cpu_seconds / max(generated.summary.ok, 1) * 1e3,
            recovery_seconds=recovery,
            attempts=measured.attempts,
            steal_share=measured.steal_share,
            summary=generated.summary,
        )

    def measure_bare(self, round_number: int, rate: float | None = None) -> Cell:
        """The bare loop on the server's CPUs: without a pause, or at the rate and times of the common rate's cells."""
        setting = self.setting
        seconds, seed = setting.seconds, 1000 * round_number + _seed_of("even")
        if rate is not None:
            seconds = min(max(seconds, setting.min_samples / rate), 3 * seconds)
        plan = BarePlan(str(setting.bundle), setting.precision, list(setting.texts), seconds, seed, rate)

        def measure() -> BareResult:
            output = run_module("benchmarks.serving.bare", msgspec.json.encode(plan), setting.server_cpus)
            return msgspec.json.decode(output, type=BareResult)

        measured = undisturbed(measure, self._watch)
        return Cell(
            round=round_number,
            server="bare",
            kind="bare" if rate is None else "bare-even",
            rate=measured.found.texts_per_second,
            cpu_ms=measured.found.cpu_ms_per_text,
            attempts=measured.attempts,
            steal_share=measured.steal_share,
        )

    def _watch(self) -> Watch:
        return Watch(cpus=self.setting.server_cpus | self.setting.client_cpus)

    def _start(self, name: str) -> None:
        server = self.servers[name]
        self._processes[name] = process = server.start(self.setting.server_cpus, self._logs / f"{name}.log")
        try:
            start_seconds = process.wait_until_ready(server.ready_path)
            difference = check_server(server, process.port, self.setting.texts[:CHECKED_TEXTS], self._expected)
        except RuntimeError as error:
            raise RuntimeError(f"{server.title}: {error} ({self._logs / name}.log)") from error
        self.store.note(
            name,
            {
                "title": server.title,
                "settings": server.settings,
                "largest_difference": difference,
                "start_seconds": round(start_seconds, 2),
                "memory_bytes": process.memory_bytes(),
            },
        )
        warm_up = self._plan(name, rate=PRIMING_RATE, seconds=WARM_UP_SECONDS, seed=1)
        self._generate(msgspec.structs.replace(warm_up, mode="closed"))
        process.pause()

    def _plan(self, name: str, *, rate: float, seconds: float, seed: int) -> Plan:
        server = self.servers[name]
        return Plan(
            port=self._processes[name].port,
            server_pid=self._processes[name].pid,
            path=server.path,
            bodies=self._bodies,
            expected=[f'"label":{json.dumps(label)}' for label in self._expected.labels],
            headers=server.headers,
            rate=rate,
            seconds=seconds,
            limit_seconds=self.setting.limit_seconds,
            seed=seed,
        )

    def _generate(self, plan: Plan) -> Generated:
        output = run_module("benchmarks.serving.generate", msgspec.json.encode(plan), self.setting.client_cpus)
        return msgspec.json.decode(output, type=Generated)

    def _recover(self, name: str) -> float | None:
        """Wait until single requests are answered within the limit again; a server that never does is started anew."""
        started = time.monotonic()
        in_time = 0
        while time.monotonic() - started < RECOVERY_SECONDS:
            before = time.monotonic()
            is_ok = is_answered(self.servers[name], self._processes[name].port, self.setting.texts[0])
            in_time = in_time + 1 if is_ok and time.monotonic() - before <= self.setting.limit_seconds else 0
            if in_time == RECOVERED_ANSWERS:
                return round(before - started, 1)
            time.sleep(0.0 if is_ok else 0.05)
        self._processes[name].stop()
        self._start(name)
        self._processes[name].resume()
        return None


def _seed_of(kind: str) -> int:
    kinds = ("closed", "probe", "even", "overload-3", "overload-10", "guess")
    return kinds.index(kind)
