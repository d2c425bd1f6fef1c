"""Our server against its peers: the same ONNX file, the same tokenizer, the same CPUs, the same requests.

    python -m benchmarks.serving.measure BUNDLE --peers .peer-serving --minutes 25 --output serving.json

Rounds are interleaved. Each starts all servers anew, for two starts of one server can differ too, and takes them in
random order: the highest rate at which 99% of all requests sent are answered within the limit
(p99 <= 50 ms, a refusal counts as a miss), searched for by turns, then goodput at 3 and at 10 times that rate. Then CPU
per request of every server, and per text of the bare tokenise-and-run loop right beside ours: at full load (four
requests under way, the loop without a pause), and at one common rate; `benchmarks.serving.cpu` compares that more
finely. All other servers are stopped by signal meanwhile. The file is written after every cell; the same command
continues it.
Measure on a machine that does nothing else. A cell with a late generator is made again, and so is one in which a
hypervisor took CPU time away; what stays disturbed is named above the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.serving.bench import Bench, Setting
from benchmarks.serving.outcomes import median
from benchmarks.serving.search import RateSearch
from benchmarks.serving.servers import ORDINARY, OURS, Server, all_servers
from benchmarks.serving.store import Cell, Store
from benchmarks.serving.table import render
from benchmarks.serving.undisturbed import was_stolen
from serving.host import describe_host
from serving.manifest import read_manifest

CLOSED_SHARE = 0.85
"""The search begins at this share of what four connections in a closed loop reach."""
EVEN_SHARE = 0.6
"""The common rate, as a share of the slowest server's peak in the first round."""
OVERLOADS = (3, 10)
FIRST_STEP, LATER_STEP = 0.15, 0.05
MIN_ROUNDS, MAX_ROUNDS = 2, 40
REQUIREMENTS = Path(__file__).with_name("requirements-peers.txt")
CORPUS = Path(__file__).parents[2] / "compressor" / "data" / "corpora" / "supportdesk" / "test.jsonl"


class Rounds:
    """Runs the cells of a round that are not in the store yet."""

    def __init__(self, bench: Bench, store: Store, max_probes: int) -> None:
        """Measure nothing yet.

        Args:
            bench: starts the servers, and measures.
            store: keeps the cells.
            max_probes: of one search.
        """
        self._bench = bench
        self._store = store
        self._max_probes = max_probes

    def run(self, number: int) -> None:
        """One round: all servers anew, searches and overloads of them, then CPU per request."""
        names = list(self._bench.servers)
        chance = random.Random(number)
        self._bench.start_anew(chance.sample(names, len(names)))
        chance.shuffle(names)
        for name, peak in self._search(names, number):
            with self._turn(name):
                for factor in OVERLOADS if peak else ():
                    self._cell(f"{number}/{name}/overload-{factor}", name, f"overload-{factor}", factor * peak, number)
        beside_ours = names.index(OURS) + number % 2 if OURS in names else 0
        names.insert(beside_ours, "bare")
        self._compare_cpu(names, number, "closed", 0.0)
        if rate := self.even_rate():
            self._compare_cpu(names, number, "even", rate)

    def _compare_cpu(self, names: Sequence[str], number: int, kind: str, rate: float) -> None:
        """CPU of every server and of the bare loop, which comes right before or after ours: speed drifts."""
        for name in names:
            if name == "bare":
                self._bare(number, rate or None)
                continue
            with self._turn(name):
                self._cell(f"{number}/{name}/{kind}", name, kind, rate, number)

    def even_rate(self) -> float:
        """The rate at which CPU per request is compared; 0 when no server has a peak yet."""
        peaks = [peak for name in self._bench.servers if (peak := self.peak(name, 0))]
        return EVEN_SHARE * min(peaks, default=0.0)

    def peak(self, name: str, number: int) -> float | None:
        """The highest rate held in a round."""
        held = [cell.rate for cell in self._probes(name, number) if cell.summary and cell.summary.holds]
        return max(held, default=None)

    def _search(self, names: Sequence[str], number: int) -> list[tuple[str, float]]:
        """The highest rate of every server. They take turns probe by probe: what slows the machine down slows all."""
        step = LATER_STEP if number else FIRST_STEP
        searches = {
            name: RateSearch(self._guess(name, number), step=step, max_probes=self._max_probes) for name in names
        }
        for index in itertools.count():
            rates = {name: rate for name, search in searches.items() if (rate := search.next_rate) is not None}
            if not rates:
                break
            for name, rate in rates.items():
                with self._turn(name):
                    cell = self._cell(f"{number}/{name}/probe/{index}", name, "probe", rate, number)
                searches[name].record(cell.rate, cell.summary is not None and cell.summary.holds)
        return [(name, search.highest or 0.0) for name, search in searches.items()]

    def _guess(self, name: str, number: int) -> float:
        earlier = [peak for before in range(number) if (peak := self.peak(name, before))]
        if earlier:
            return median(earlier)
        if first := self._store.cells.get(f"{number}/{name}/probe/0"):  # of a run that is continued
            return first.rate
        with self._turn(name):
            closed = self._cell(f"{number}/{name}/guess", name, "guess", 0.0, number)
        answered = closed.summary.ok / self._bench.closed_seconds if closed.summary else 0.0
        return CLOSED_SHARE * max(answered, 1.0)

    def _probes(self, name: str, number: int) -> list[Cell]:
        cells = self._store.cells.values()
        return [cell for cell in cells if (cell.server, cell.round, cell.kind) == (name, number, "probe")]

    def _cell(self, key: str, name: str, kind: str, rate: float, number: int) -> Cell:
        if key not in self._store.cells:
            self._store.add(key, self._bench.measure(name, kind, rate, number))
            _report(key, self._store.cells[key])
        return self._store.cells[key]

    def _bare(self, number: int, rate: float | None) -> None:
        key = f"{number}/bare" if rate is None else f"{number}/bare-even"
        if key not in self._store.cells:
            self._store.add(key, self._bench.measure_bare(number, rate))
            _report(key, self._store.cells[key])

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        self._bench.resume(name)
        try:
            yield
        finally:
            self._bench.pause(name)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, and write JSON and a table."""
    arguments = _parse(given)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # servers are stopped on the way out
    os.sched_setaffinity(0, arguments.client_cpus)
    setting = _setting(arguments)
    servers = _servers(arguments, setting)
    store = Store(arguments.output, _setup(setting, servers))
    store.note("host", describe_host())
    store.note("quick", arguments.quick)
    started = time.monotonic()
    with Bench(setting, servers, store, arguments.output.with_suffix(".logs")) as bench:
        rounds = Rounds(bench, store, max_probes=2 if arguments.quick else 10)
        for number in range(arguments.rounds):
            before = time.monotonic()
            rounds.run(number)
            _write_table(arguments.output, store)
            took, left = time.monotonic() - before, arguments.minutes * 60 - (time.monotonic() - started)
            print(f"round {number}: {took:.0f} s; {max(left, 0) / 60:.1f} minutes left", flush=True)
            if number + 1 >= MIN_ROUNDS and left < 0.9 * took:
                break
    print(render(store))


def _setting(arguments: argparse.Namespace) -> Setting:
    return Setting(
        bundle=arguments.bundle,
        precision=read_manifest(arguments.bundle).artifact(arguments.precision).precision,
        texts=tuple(read_texts(arguments.texts)),
        server_cpus=frozenset(arguments.server_cpus),
        client_cpus=frozenset(arguments.client_cpus),
        limit_seconds=arguments.limit_ms / 1e3,
        seconds=1.0 if arguments.quick else arguments.seconds,
        min_samples=50 if arguments.quick else 500,
    )


def _servers(arguments: argparse.Namespace, setting: Setting) -> list[Server]:
    python = arguments.peers / "bin" / "python"
    known = all_servers(
        setting.bundle.absolute(),
        python.absolute(),
        setting.server_cpus,
        precision=setting.precision,
        limit_seconds=setting.limit_seconds,
    )
    names = arguments.servers or [name for name in known if name != ORDINARY]
    if unknown := set(names) - set(known):
        raise SystemExit(f"no server {sorted(unknown)[0]!r}. Choose among: {', '.join(known)}")
    if any(not known[name].is_ours for name in names) and not python.exists():
        venv.create(arguments.peers, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-r", REQUIREMENTS], check=True)
    return [known[name] for name in names]


def _setup(setting: Setting, servers: Sequence[Server]) -> dict[str, Any]:
    """What the figures depend on; a resumed run must have the same."""
    manifest = read_manifest(setting.bundle)
    artifact = manifest.artifact(setting.precision)
    return {
        "bundle": f"{manifest.name} {manifest.version}",
        "file": artifact.file,
        "sha256": artifact.sha256,
        "texts": len(setting.texts),
        "mean_characters": round(sum(map(len, setting.texts)) / len(setting.texts), 1),
        "server_cpus": sorted(setting.server_cpus),
        "client_cpus": sorted(setting.client_cpus),
        "limit_ms": setting.limit_seconds * 1e3,
        "seconds": setting.seconds,
        "servers": [server.name for server in servers],
    }


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The texts of .jsonl files with a column `text`."""
    return [json.loads(line)["text"] for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def _write_table(output: Path, store: Store) -> None:
    output.with_suffix(".md").write_text(render(store))


def _report(key: str, cell: Cell) -> None:
    stolen = f"  DISTURBED: {cell.steal_share:.1%} of the CPU time was stolen" if was_stolen(cell.steal_share) else ""
    if (summary := cell.summary) is None:
        print(f"{key:32} {cell.rate:7.1f}/s {cell.cpu_ms:6.2f} CPU-ms{stolen}", flush=True)
        return
    p99 = "      -" if summary.latency.p99 is None else f"{summary.latency.p99:7.1f}"
    print(
        f"{key:32} {cell.rate:7.1f}/s p99 {p99} ms, within {summary.share_within:6.1%}, refused {summary.refused}, "
        f"expired {summary.expired}, failed {summary.failed}, {cell.cpu_ms:6.2f} CPU-ms"
        + ("" if summary.is_valid else "  INVALID: the generator was late")
        + stolen,
        flush=True,
    )


def cpu_set(text: str) -> set[int]:
    """Of an option, such as 0,2."""
    return {int(part) for part in text.split(",")}


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--peers", type=Path, default=Path(".peer-serving"), help="their environment; made if missing")
    parser.add_argument("--output", type=Path, default=Path("serving.json"), help="the table goes beside it")
    parser.add_argument("--texts", type=Path, nargs="+", default=[CORPUS], help=".jsonl with a column text")
    parser.add_argument("--servers", nargs="+", metavar="NAME", help=f"default: all but {ORDINARY}")
    parser.add_argument("--precision", help="default: the bundle's default artifact")
    parser.add_argument("--server-cpus", type=cpu_set, default={0}, help="e.g. 0 or 0,2")
    parser.add_argument("--client-cpus", type=cpu_set, default={1})
    parser.add_argument("--limit-ms", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a cell")
    parser.add_argument("--minutes", type=float, default=25.0, help="no further round begins that would exceed it")
    parser.add_argument("--rounds", type=int, default=MAX_ROUNDS, help="at most")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
