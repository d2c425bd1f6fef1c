"""From cells to a table: medians over rounds, ratios paired by round with their 95% intervals, and the goals.

python -m benchmarks.serving.table serving.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.serving.outcomes import Summary, median
from benchmarks.serving.servers import FLOOR, ORDINARY, OURS
from benchmarks.serving.store import Cell, Store
from benchmarks.serving.undisturbed import was_stolen
from export.statistics import bootstrap_interval, paired_ratio

RATE_GOAL = 1.5
CPU_GOAL_MS, CPU_GOAL_SHARE = 0.5, 0.15
GOODPUT_GOAL = 0.95


class Interval(NamedTuple):
    """A value with the ends of its 95% interval over rounds; NaN ends with fewer than two rounds."""

    value: float
    low: float
    high: float

    def show(self, form: str = ".2f") -> str:
        """As text."""
        if np.isnan(self.low):
            return f"{self.value:{form}} (one round)"
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"


class Figures:
    """What the cells of a store say."""

    def __init__(self, store: Store) -> None:
        """Only read."""
        self._cells = list(store.cells.values())

    def peaks(self, server: str) -> dict[int, Cell]:
        """Per round, the probe with the highest rate that was held."""
        best: dict[int, Cell] = {}
        for cell in self._of(server, "probe"):
            if _summary(cell).holds and (cell.round not in best or cell.rate > best[cell.round].rate):
                best[cell.round] = cell
        return best

    def rates(self, server: str) -> dict[int, float]:
        """Per round, the highest rate that was held."""
        return {number: cell.rate for number, cell in self.peaks(server).items()}

    def cpu_ms(self, server: str) -> dict[int, float]:
        """Per round, CPU milliseconds per answer at the common rate (of the bare loop: per text)."""
        return {cell.round: cell.cpu_ms for cell in self._of(server, "bare-even" if server == "bare" else "even")}

    def full_cpu_ms(self, server: str) -> dict[int, float]:
        """Per round, CPU milliseconds per answer with four requests under way (of the bare loop: without a pause)."""
        return {cell.round: cell.cpu_ms for cell in self._of(server, "bare" if server == "bare" else "closed")}

    def goodput(self, server: str, kind: str) -> dict[int, float]:
        """Per round, goodput under an overload."""
        return {cell.round: _summary(cell).goodput for cell in self._of(server, kind)}

    def peak_goodput(self, server: str) -> dict[int, float]:
        """Per round, goodput at the peak."""
        return {number: _summary(cell).goodput for number, cell in self.peaks(server).items()}

    def worst_recovery(self, server: str) -> float | None:
        """Longest time until an overloaded server answered in time again; None when it had to be started anew."""
        times = [cell.recovery_seconds for factor in (3, 10) for cell in self._of(server, f"overload-{factor}")]
        return None if any(time is None for time in times) else max((time for time in times if time), default=0.0)

    def other_labels(self, server: str) -> float:
        """Share of the answers with another label than the text gets alone; NaN without answers."""
        summaries = [cell.summary for cell in self._cells if cell.server == server and cell.summary]
        answers = sum(row.ok for row in summaries)
        return sum(row.other_label for row in summaries) / answers if answers else float("nan")

    def failures(self, server: str) -> int:
        """Requests that ended in an error other than a refusal or an expiry, or on a broken connection."""
        return sum(cell.summary.failed for cell in self._cells if cell.server == server and cell.summary)

    def invalid_cells(self) -> int:
        """Cells in which the generator was late even when they were repeated."""
        return sum(1 for cell in self._cells if cell.summary and not cell.summary.is_valid)

    def stolen_cells(self) -> int:
        """Cells in which the hypervisor took CPU time away even when they were repeated."""
        return sum(was_stolen(cell.steal_share) for cell in self._cells)

    def num_rounds(self) -> int:
        """Rounds with at least one cell."""
        return len({cell.round for cell in self._cells})

    def _of(self, server: str, kind: str) -> Iterable[Cell]:
        return (cell for cell in self._cells if cell.server == server and cell.kind == kind)


def ratio(first: dict[int, float], second: dict[int, float]) -> Interval:
    """First over second, paired by the rounds that have both."""
    rounds = sorted(first.keys() & second.keys())
    if not rounds:
        return Interval(*[float("nan")] * 3)
    pair = [np.array([side[number] for number in rounds]) for side in (first, second)]
    value, low, high = paired_ratio(pair[0], pair[1])
    return Interval(value, low, high) if len(rounds) > 1 else Interval(value, float("nan"), float("nan"))


def difference(first: dict[int, float], second: dict[int, float]) -> Interval:
    """Median of first minus second, paired by the rounds that have both."""
    rounds = sorted(first.keys() & second.keys())
    if not rounds:
        return Interval(*[float("nan")] * 3)
    values = np.array([first[number] - second[number] for number in rounds])
    value, low, high = bootstrap_interval(lambda rows: float(np.median(rows)), values, samples=2000)
    return Interval(value, low, high) if len(rounds) > 1 else Interval(value, float("nan"), float("nan"))


def render(store: Store) -> str:
    """The table, the goals and what they were measured on, in Markdown."""
    figures = Figures(store)
    servers = [name for name in store.setup["servers"] if name in store.facts]
    parts = [_warning(store, figures), _describe(store, figures), _table(store, figures, servers)]
    if OURS in servers:
        parts.append("\n".join(f"- {line}" for line in goals(figures, servers)))
    return "\n\n".join(part for part in parts if part) + "\n"


def goals(figures: Figures, servers: Iterable[str]) -> list[str]:
    """The goals of the server with what was measured; see `_verdict`."""
    peers = [name for name in servers if name not in (OURS, ORDINARY, FLOOR) and figures.rates(name)]
    best = max(peers, key=lambda name: median(list(figures.rates(name).values())), default=None)
    lines = []
    if best is not None:
        found = ratio(figures.rates(OURS), figures.rates(best))
        lines.append(f"highest rate against the best peer ({best}): {found.show()} times, "
                     f"goal {RATE_GOAL}: {_verdict(found.low >= RATE_GOAL, found.high < RATE_GOAL)}")  # fmt: skip
    for where, cpu_ms in (("at the same rate", figures.cpu_ms), ("at full load", figures.full_cpu_ms)):
        ours, bare = cpu_ms(OURS), cpu_ms("bare")
        common = median([bare[number] for number in sorted(ours.keys() & bare.keys())])
        lines.append(cpu_goal(where, common, difference(ours, bare)))
    for factor in (3, 10) if figures.rates(OURS) else ():
        kept = ratio(figures.goodput(OURS, f"overload-{factor}"), figures.peak_goodput(OURS))
        verdict = _verdict(kept.low >= GOODPUT_GOAL, kept.high < GOODPUT_GOAL)
        lines.append(f"goodput at {factor} times the peak: {kept.show()} of the peak's, goal {GOODPUT_GOAL}: {verdict}")
    return lines


def cpu_goal(where: str, bare_ms: float, above: Interval) -> str:
    """What is to be said of our server's CPU time per request, in milliseconds.

    Args:
        where: it was measured.
        bare_ms: of the bare loop per text.
        above: by how much ours is more.
    """
    limit = max(CPU_GOAL_MS, CPU_GOAL_SHARE * bare_ms)
    verdict = _verdict(above.high <= limit, above.low > limit)
    return (
        f"CPU per request above the bare loop's {bare_ms:.2f} ms {where}: {above.show()} ms, "
        f"goal at most {limit:.2f} ms: {verdict}"
    )


def _table(store: Store, figures: Figures, servers: Iterable[str]) -> str:
    columns: dict[str, Callable[[str], str]] = {
        "server": lambda name: store.facts[name]["title"],
        "highest rate, 1/s": lambda name: _number(median(list(figures.rates(name).values())), ".0f"),
        "ours over it": lambda name: "" if name == OURS else ratio(figures.rates(OURS), figures.rates(name)).show(),
        "p50 / p99 there, ms": lambda name: _latencies(figures, name),
        "CPU-ms per request": lambda name: _number(median(list(figures.cpu_ms(name).values())), ".2f"),
        "at full load": lambda name: _number(median(list(figures.full_cpu_ms(name).values())), ".2f"),
        "goodput at 3x": lambda name: _share(figures, name, "overload-3"),
        "at 10x": lambda name: _share(figures, name, "overload-10"),
        "recovers in, s": lambda name: _recovery(figures, name),
        "other labels": lambda name: _number(figures.other_labels(name), ".2%"),
        "failed": lambda name: str(figures.failures(name)),
        "memory, MB": lambda name: f"{store.facts[name]['memory_bytes'] / 1e6:.0f}",
        "ready in, s": lambda name: f"{store.facts[name]['start_seconds']:.1f}",
    }
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(column(name) for column in columns.values()) + " |" for name in servers]
    return "\n".join(lines)


def _describe(store: Store, figures: Figures) -> str:
    setup, host = store.setup, store.facts["host"]
    paced, full = (median(list(found("bare").values())) for found in (figures.cpu_ms, figures.full_cpu_ms))
    settings = "; ".join(f"{row['title']}: {row['settings']}" for row in map(store.facts.get, setup["servers"]) if row)
    even = sorted({round(cell.rate) for cell in store.cells.values() if cell.kind == "even"})
    return (
        f"{setup['file']} of {setup['bundle']}, {setup['texts']} texts of {setup['mean_characters']} characters on "
        f"average; {host['cpu_model']}, servers on CPU {setup['server_cpus']}, generator on {setup['client_cpus']}; "
        f"limit {setup['limit_ms']:.0f} ms; {figures.num_rounds()} rounds. "
        f"CPU per request at {', '.join(map(str, even)) or '-'} requests per second for all, and at full load, with "
        f"four requests under way. Bare loop, one thread: {paced:.2f} CPU-ms per text at that rate, {full:.2f} without "
        "a pause. Other labels: answers with another label than the text gets alone. "
        f"Cells with a late generator: {figures.invalid_cells()}.\n\nSettings: {settings}."
    )


def _warning(store: Store, figures: Figures) -> str:
    load = (store.facts["host"].get("load_average") or [0.0])[0]
    notes = []
    if store.facts.get("quick"):
        notes.append("a quick run: the figures mean nothing")
    if load > 0.5:
        notes.append(f"the machine was busy when it began (load {load:.1f})")
    if figures.invalid_cells():
        notes.append("some cells are invalid")
    if stolen := figures.stolen_cells():
        notes.append(f"the hypervisor took CPU time away in {stolen} of the cells")
    return f"**Not to be quoted: {'; '.join(notes)}.**" if notes else ""


def _latencies(figures: Figures, name: str) -> str:
    peaks = [_summary(cell).latency for cell in figures.peaks(name).values()]
    middle, tail = ([value for row in peaks if (value := getattr(row, key)) is not None] for key in ("p50", "p99"))
    return f"{_number(median(middle), '.1f')} / {_number(median(tail), '.1f')}"


def _share(figures: Figures, name: str, kind: str) -> str:
    found = ratio(figures.goodput(name, kind), figures.peak_goodput(name))
    return _number(found.value, ".0%")


def _recovery(figures: Figures, name: str) -> str:
    seconds = figures.worst_recovery(name)
    return "not" if seconds is None else f"{seconds:.1f}"


def _number(value: float, form: str) -> str:
    return "-" if np.isnan(value) else f"{value:{form}}"


def _verdict(is_reached: bool, is_missed: bool) -> str:
    """A goal is reached when the whole interval is on its right side, and missed when none of it is."""
    if is_reached:
        return "reached"
    return "MISSED" if is_missed else "NOT DECIDED"


def _summary(cell: Cell) -> Summary:
    if cell.summary is None:
        raise ValueError(f"a cell of {cell.server}, {cell.kind}, has no summary")
    return cell.summary


if __name__ == "__main__":
    file = Path(sys.argv[1])
    print(render(Store(file, json.loads(file.read_text())["setup"])))
