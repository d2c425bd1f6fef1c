"""CPU time per request, by thread: our server, the bare tokenise-and-run loop, other servers and other checkouts.

    python -m benchmarks.serving.cpu BUNDLE --peers .peer-serving --output cpu.json
    python -m benchmarks.serving.cpu BUNDLE --contestants compressor --checkout before=../before --output change.json

A machine that is not alone changes its speed within seconds, by more than what is looked for. So all contestants take
turns in windows of half a second at full load (four requests under way, the loop without a pause), and of some more
at a common rate, in random order and with the same texts at the same times. What is compared are differences within
a turn. Every round starts all of them anew, for two starts of one server can differ too: where a process's memory
lies decides what it finds in a cache; intervals (Student's t) are over rounds. The other processes are stopped by
signal meanwhile. Turns in which a hypervisor took CPU time away are left out. The time is the scheduler's own, in
nanoseconds: clock ticks of 10 ms would be too coarse. `--checkout NAME=FOLDER` is our server from another working tree.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import msgspec

from benchmarks.serving.answers import Expected, check_server, expected_answers
from benchmarks.serving.bare import BarePlan, BareResult
from benchmarks.serving.bench import CHECKED_TEXTS, WARM_UP_SECONDS
from benchmarks.serving.cpu_table import BARE, FULL, PACED, Window, render
from benchmarks.serving.generate import Plan, run
from benchmarks.serving.measure import CORPUS, cpu_set, read_texts
from benchmarks.serving.processes import PROC, ServerProcess, members, read_process_table
from benchmarks.serving.servers import FLOOR, ORDINARY, OURS, ROOT, Server, all_servers
from export.benchmark.conditions import Watch
from serving.host import describe_host
from serving.manifest import read_manifest

PRIMING_SHARE = 0.25
"""Of a window, at full load before it; counts nowhere. The bare loop does the same."""


class ThreadTimes(NamedTuple):
    """CPU seconds so far."""

    loop: float
    others: float


class Load(NamedTuple):
    """What contestants have to do in one window.

    Attributes:
        kind: full or paced.
        seconds: its length.
        rate: requests per second; None for as many as four connections, or a loop, can have answered.
        seed: of texts and times.
    """

    kind: str
    seconds: float
    rate: float | None
    seed: int


class Contestant(Protocol):
    """Something that runs and answers texts."""

    def measure(self, load: Load) -> tuple[float, float, int]:
        """CPU milliseconds of the event loop and of all else, per answer, and the number of answers."""
        ...


def thread_times(root: int) -> ThreadTimes:
    """CPU seconds of a process's first thread, and of all others that belong to it; what has ended does not count."""
    seconds = {}
    for pid in members(read_process_table(), root):
        with contextlib.suppress(OSError):  # it ended while we looked
            for folder in (PROC / str(pid) / "task").iterdir():
                seconds[int(folder.name)] = int((folder / "schedstat").read_text().split()[0]) / 1e9
    first = seconds.pop(root, 0.0)
    return ThreadTimes(first, sum(seconds.values()))


class RunningServer:
    """A server that is paused between its windows, and must answer every request in them."""

    def __init__(self, server: Server, process: ServerProcess, texts: Sequence[str]) -> None:
        """Warm it up."""
        self._title = server.title
        bodies = [json.dumps({"text": text}) for text in texts]
        self._process = process
        self._plan = Plan(
            port=process.port, path=server.path, bodies=bodies, expected=[""] * len(bodies), headers=server.headers
        )
        self._send(Load(FULL, WARM_UP_SECONDS, None, 0))
        process.pause()

    def measure(self, load: Load) -> tuple[float, float, int]:
        """See `Contestant`; RuntimeError when a request was not answered: its time would count as nobody's."""
        self._process.resume()
        try:
            self._send(Load(FULL, PRIMING_SHARE * load.seconds, None, load.seed))
            before = thread_times(self._process.pid)
            answers = self._send(load)
            after = thread_times(self._process.pid)
        finally:
            self._process.pause()
        per_answer = 1e3 / answers
        return (after.loop - before.loop) * per_answer, (after.others - before.others) * per_answer, answers

    def _send(self, load: Load) -> int:
        plan = msgspec.structs.replace(self._plan, seconds=load.seconds, seed=load.seed)
        if load.rate is None:
            plan = msgspec.structs.replace(plan, mode="closed")
        else:
            plan = msgspec.structs.replace(plan, rate=load.rate)
        summary = run(plan).summary
        if not summary.ok or summary.ok < summary.sent:
            raise RuntimeError(
                f"{self._title} answered {summary.ok} of {summary.sent} requests; see its log, or lower the rate"
            )
        return summary.ok


class BareLoop:
    """The loop without a server, in a process of its own that waits between its windows."""

    def __init__(self, plan: BarePlan, process: subprocess.Popen[bytes]) -> None:
        """Warm it up.

        Args:
            plan: seconds, seed and rate change from window to window.
            process: `benchmarks.serving.bare`.
        """
        self._plan = plan
        self._process = process
        self.measure(Load(FULL, WARM_UP_SECONDS, None, 0))

    def measure(self, load: Load) -> tuple[float, float, int]:
        """See `Contestant`; RuntimeError when the process has ended."""
        plan = msgspec.structs.replace(self._plan, seconds=load.seconds, seed=load.seed, rate=load.rate)
        to_it, from_it = _pipes(self._process)
        with contextlib.suppress(BrokenPipeError):  # it has ended: nothing can be read either
            to_it.write(msgspec.json.encode(plan) + b"\n")
        if not (line := from_it.readline()):
            raise RuntimeError("the bare loop ended; what it said stands above")
        result = msgspec.json.decode(line, type=BareResult)
        return result.cpu_ms_per_text, 0.0, result.texts


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and write JSON and a table."""
    arguments = _parse(given)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # servers are stopped on the way out
    found = _setup(arguments)
    os.sched_setaffinity(0, arguments.client_cpus)  # the generator runs in this process
    texts = read_texts([CORPUS])
    expected = expected_answers(arguments.bundle, _precision(arguments), texts[:CHECKED_TEXTS])
    windows: list[Window] = []
    for number in range(arguments.rounds):
        windows += _round(number, texts, expected, arguments)
        arguments.output.write_text(json.dumps(found | {"windows": msgspec.to_builtins(windows)}) + "\n")
        print(f"round {number} of {arguments.rounds}", flush=True)
    table = render(windows, arguments.rate)
    arguments.output.with_suffix(".md").write_text(table + "\n")
    print(table)


def _setup(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on; SystemExit for contestants that are not there."""
    python = arguments.peers / "bin" / "python"
    if not python.exists() and set(arguments.contestants) - {BARE, OURS, ORDINARY}:
        raise SystemExit(f"there is no {python}. Run benchmarks.serving.measure first, which makes it, or give --peers")
    _servers(arguments)
    manifest = read_manifest(arguments.bundle)
    artifact = manifest.artifact(None)
    checkouts = {OURS: ROOT, **dict(arguments.checkout)}
    return {
        "host": describe_host(),
        "bundle": f"{manifest.name} {manifest.version}",
        "file": artifact.file,
        "sha256": artifact.sha256,
        "server_cpus": sorted(arguments.server_cpus),
        "client_cpus": sorted(arguments.client_cpus),
        "rate": arguments.rate,
        "seconds": arguments.seconds,
        "paced_seconds": arguments.paced_seconds,
        "limit_ms": arguments.limit_ms,
        "commits": {name: _commit(folder) for name, folder in checkouts.items()},
    }


def _commit(folder: Path) -> str | None:
    """Of a working tree, with a plus where it has changes; None where there is no repository."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude", "*"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return None


def _round(number: int, texts: Sequence[str], expected: Expected, arguments: argparse.Namespace) -> list[Window]:
    """All windows of one round; contestants are started for it, and ended after it."""
    chance = random.Random(number)
    servers = _servers(arguments)
    names = [*arguments.contestants, *(name for name, _ in arguments.checkout)]
    windows = []
    with ExitStack() as stack:
        running: dict[str, Contestant] = {}
        for name in chance.sample(names, len(names)):
            start = _bare(texts, arguments) if name == BARE else _running(servers[name], texts, expected, arguments)
            running[name] = stack.enter_context(start)
        for turn in range(arguments.turns):
            watch = Watch(cpus=arguments.server_cpus | arguments.client_cpus)
            order = chance.sample(names, len(names))
            seed = number * arguments.turns + turn
            loads = [Load(FULL, arguments.seconds, None, seed)]
            loads.append(Load(PACED, arguments.paced_seconds, arguments.rate, seed))
            measured = {(name, load): running[name].measure(load) for load in loads for name in order}
            steal_share = watch.conditions().steal_share
            windows += [
                Window(name, load.kind, number, turn, *measured[name, load], steal_share=steal_share)
                for name in names
                for load in loads
            ]
    return windows


def _servers(arguments: argparse.Namespace) -> dict[str, Server]:
    known = all_servers(
        arguments.bundle.absolute(),
        (arguments.peers / "bin" / "python").absolute(),
        arguments.server_cpus,
        precision=_precision(arguments),
        limit_seconds=arguments.limit_ms / 1e3,
    )
    if unknown := set(arguments.contestants) - {*known, BARE}:
        raise SystemExit(f"no contestant {sorted(unknown)[0]!r}. Choose among: {', '.join([BARE, *known])}")
    for name, folder in arguments.checkout:
        known[name] = replace(known[OURS], name=name, environment={"PYTHONPATH": str(folder.absolute())})
    return known


def _precision(arguments: argparse.Namespace) -> str:
    return read_manifest(arguments.bundle).artifact(None).precision


@contextlib.contextmanager
def _running(
    server: Server, texts: Sequence[str], expected: Expected, arguments: argparse.Namespace
) -> Iterator[Contestant]:
    process = server.start(arguments.server_cpus, arguments.output.with_suffix(f".{server.name}.log"))
    try:
        process.wait_until_ready(server.ready_path)
        check_server(server, process.port, texts[:CHECKED_TEXTS], expected)
        yield RunningServer(server, process, texts)
    finally:
        process.stop()


@contextlib.contextmanager
def _bare(texts: Sequence[str], arguments: argparse.Namespace) -> Iterator[Contestant]:
    plan = BarePlan(str(arguments.bundle), _precision(arguments), list(texts), 1.0, 0)
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.bare"],
        bufsize=0,  # nothing is left to be written when it has ended
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, arguments.server_cpus),
    ) as process:
        yield BareLoop(plan, process)


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process needs pipes for its input and its output")
    return process.stdin, process.stdout


def _checkout(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not re.fullmatch(r"[\w.-]+", name) or not folder or name in (BARE, OURS, ORDINARY, FLOOR):
        raise argparse.ArgumentTypeError(f"{text}: give NAME=FOLDER, with a name of its own")
    if not (Path(folder) / "serving").is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder 'serving' in it; give that of a working tree")
    return name, Path(folder)


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", type=Path, default=Path(".peer-serving"), help="their environment")
    parser.add_argument(
        "--contestants",
        nargs="+",
        default=[BARE, OURS, ORDINARY, FLOOR],
        help="the first is what others are compared with",
    )
    parser.add_argument("--checkout", type=_checkout, action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--rate", type=float, default=57.0, help="requests per second at the common rate")
    parser.add_argument("--limit-ms", type=float, default=50.0, help="the deadline that our server is told")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--turns", type=int, default=10, help="of each round")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a window at full load")
    parser.add_argument("--paced-seconds", type=float, default=1.5, help="of a window at the common rate")
    parser.add_argument("--server-cpus", type=cpu_set, default={0})
    parser.add_argument("--client-cpus", type=cpu_set, default={1})
    parser.add_argument("--output", type=Path, default=Path("cpu.json"), help="the table goes beside it")
    arguments = parser.parse_args(given)
    names = [*arguments.contestants, *(name for name, _ in arguments.checkout)]
    if twice := [name for name in names if names.count(name) > 1]:
        parser.error(f"{twice[0]} is named twice; each contestant takes part once")
    return arguments


if __name__ == "__main__":
    main()
