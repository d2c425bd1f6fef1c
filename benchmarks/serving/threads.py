"""Where a request's CPU time goes: to the event loop, or to the threads that tokenise and run.

    python -m benchmarks.serving.threads BUNDLE --servers compressor floor --rounds 12 --output threads.json
    python -m benchmarks.serving.threads BUNDLE --servers compressor --checkout before=../before --output change.json

Windows of a few seconds, interleaved in random order, with the same texts at the same times for all in a round; the
other servers are stopped by signal meanwhile. Every round starts all of them anew, for two starts of one server differ
by as much as two servers: where a process's memory lies decides what it finds in a cache. The time is the scheduler's
own, in nanoseconds: clock ticks of 10 ms would be coarser than what is looked for. `--checkout NAME=FOLDER` is our
server from another working tree.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.serving.generate import Generated, Plan
from benchmarks.serving.measure import CORPUS, cpu_set, read_texts
from benchmarks.serving.outcomes import median
from benchmarks.serving.processes import PROC, ServerProcess, free_port, members, read_process_table, run_module
from benchmarks.serving.servers import OURS, Server, all_servers
from benchmarks.serving.table import Interval, difference
from benchmarks.serving.undisturbed import was_stolen
from export.benchmark.conditions import Watch
from serving.host import describe_host
from serving.manifest import read_manifest

PRIMING_SECONDS, PRIMING_RATE = 1.0, 40.0


class Window(msgspec.Struct, frozen=True):
    """CPU time of one server in one window, in milliseconds per answer.

    Attributes:
        server: its name.
        round: in which it was measured.
        loop_ms: of the first process's first thread, where the event loop runs if the server is one process.
        other_ms: of all other threads, and of the processes that it started.
        steal_share: of the CPUs' time, taken away by the hypervisor meanwhile.
    """

    server: str
    round: int
    loop_ms: float
    other_ms: float
    steal_share: float | None = None

    @property
    def total_ms(self) -> float:
        """Of all threads."""
        return self.loop_ms + self.other_ms


class ThreadTimes(NamedTuple):
    """CPU seconds so far."""

    loop: float
    others: float


def thread_times(root: int) -> ThreadTimes:
    """CPU seconds of a process's first thread, and of all others that belong to it; what has ended does not count."""
    seconds = {}
    for pid in members(read_process_table(), root):
        with contextlib.suppress(OSError):  # it ended while we looked
            for folder in (PROC / str(pid) / "task").iterdir():
                seconds[int(folder.name)] = int((folder / "schedstat").read_text().split()[0]) / 1e9
    first = seconds.pop(root, 0.0)
    return ThreadTimes(first, sum(seconds.values()))


def render(windows: Sequence[Window]) -> str:
    """A table in Markdown: medians over rounds, and differences to the first server, paired by round."""
    names = list(dict.fromkeys(window.server for window in windows))
    stolen = sum(was_stolen(window.steal_share) for window in windows)
    rows = [
        f"Windows from which the hypervisor took CPU time away: {stolen} of {len(windows)}.",
        "",
        "| server | event loop, ms | other threads, ms | together, ms | event loop more than the first | together |",
        "|---|--:|--:|--:|---|---|",
    ]
    for name in names:
        own = [window for window in windows if window.server == name]
        figures = [median([getattr(window, field) for window in own]) for field in ("loop_ms", "other_ms", "total_ms")]
        more = ["" if name == names[0] else _more(windows, name, names[0], field) for field in ("loop_ms", "total_ms")]
        rows.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in figures)} | {more[0]} | {more[1]} |")
    return "\n".join(rows)


def _more(windows: Sequence[Window], name: str, first: str, field: str) -> str:
    sides = [
        {window.round: getattr(window, field) for window in windows if window.server == server}
        for server in (name, first)
    ]
    interval: Interval = difference(sides[0], sides[1])
    return interval.show("+.3f")


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and write JSON and a table."""
    arguments = _parse(given)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # servers are stopped on the way out
    os.sched_setaffinity(0, arguments.client_cpus)
    bodies = [json.dumps({"text": text}) for text in read_texts([CORPUS])]
    windows: list[Window] = []
    servers = list(_servers(arguments))
    for number in range(arguments.rounds):
        with ExitStack() as stack:
            chance = random.Random(number)
            starts = chance.sample(servers, len(servers))
            processes = [(server, stack.enter_context(_running(server, arguments))) for server in starts]
            chance.shuffle(processes)
            measured = {
                server.name: _measure(server, process, bodies, number, arguments) for server, process in processes
            }
        windows += [measured[server.name] for server in servers]
        found = {"host": describe_host(), "rate": arguments.rate, "seconds": arguments.seconds}
        found["windows"] = msgspec.to_builtins(windows)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
        print(f"round {number}: {', '.join(f'{w.server} {w.total_ms:.3f}' for w in measured.values())}", flush=True)
    print(render(windows))


def _servers(arguments: argparse.Namespace) -> Iterator[Server]:
    precision = read_manifest(arguments.bundle).artifact(None).precision
    known = all_servers(
        arguments.bundle.absolute(),
        (arguments.peers / "bin" / "python").absolute(),
        arguments.server_cpus,
        precision=precision,
        limit_seconds=arguments.limit_ms / 1e3,
    )
    if unknown := set(arguments.servers) - set(known):
        raise SystemExit(f"no server {sorted(unknown)[0]!r}. Choose among: {', '.join(known)}")
    for name in arguments.servers:
        yield known[name]
    for name, folder in arguments.checkout:
        yield replace(known[OURS], name=name, environment={"PYTHONPATH": str(folder.absolute())})


@contextlib.contextmanager
def _running(server: Server, arguments: argparse.Namespace) -> Iterator[ServerProcess]:
    """A server that was ready once, and is paused."""
    port = free_port()
    with arguments.output.with_suffix(f".{server.name}.log").open("ab") as log:
        process = ServerProcess(
            server.command(port), port, cpus=arguments.server_cpus, environment=server.environment, log=log
        )
        try:
            process.wait_until_ready(server.ready_path)
            process.pause()
            yield process
        finally:
            process.stop()


def _measure(
    server: Server, process: ServerProcess, bodies: list[str], number: int, arguments: argparse.Namespace
) -> Window:
    plan = Plan(
        port=process.port,
        path=server.path,
        bodies=bodies,
        expected=[""] * len(bodies),
        headers=server.headers,
        rate=PRIMING_RATE,
        seconds=PRIMING_SECONDS,
        seed=number,
    )
    process.resume()
    try:
        _generate(plan, arguments)
        watch = Watch(cpus=arguments.server_cpus | arguments.client_cpus)
        before = thread_times(process.pid)
        plan = msgspec.structs.replace(plan, rate=arguments.rate, seconds=arguments.seconds)
        answers = _generate(plan, arguments).summary.ok
        after = thread_times(process.pid)
        steal_share = watch.conditions().steal_share
    finally:
        process.pause()
    per_answer = 1e3 / max(answers, 1)
    return Window(
        server=server.name,
        round=number,
        loop_ms=(after.loop - before.loop) * per_answer,
        other_ms=(after.others - before.others) * per_answer,
        steal_share=steal_share,
    )


def _generate(plan: Plan, arguments: argparse.Namespace) -> Generated:
    output = run_module("benchmarks.serving.generate", msgspec.json.encode(plan), arguments.client_cpus)
    return msgspec.json.decode(output, type=Generated)


def _checkout(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    return name, Path(folder)


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", type=Path, default=Path(".peer-serving"), help="their environment")
    parser.add_argument("--servers", nargs="+", default=[OURS], help="the first is what others are compared with")
    parser.add_argument("--checkout", type=_checkout, action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--rate", type=float, default=38.0, help="requests per second")
    parser.add_argument("--limit-ms", type=float, default=50.0, help="the deadline that our server is told")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one window")
    parser.add_argument("--server-cpus", type=cpu_set, default={0})
    parser.add_argument("--client-cpus", type=cpu_set, default={1})
    parser.add_argument("--output", type=Path, default=Path("threads.json"))
    arguments = parser.parse_args(given)
    if unknown := [name for name, folder in arguments.checkout if not (folder / "serving").is_dir()]:
        parser.error(f"--checkout {unknown[0]}: there is no folder 'serving' in it; give NAME=FOLDER of a working tree")
    return arguments


if __name__ == "__main__":
    main()
