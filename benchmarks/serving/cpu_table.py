"""From windows of CPU time to tables: means over rounds, differences paired by turn with t intervals, and the goal.

    python -m benchmarks.serving.cpu_table cpu.json
    python -m benchmarks.serving.cpu_table monday.json tuesday.json

Several runs of the same bundle, code and machine count as one of all their rounds, for the contestants of all of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from benchmarks.serving.servers import OURS
from benchmarks.serving.table import Interval, cpu_goal
from benchmarks.serving.undisturbed import was_stolen

BARE = "bare"
FULL, PACED = "full", "paced"
FIELDS = ("loop_ms", "other_ms", "total_ms")


class Window(msgspec.Struct, frozen=True):
    """CPU time of one contestant in one window, in milliseconds per answer.

    Attributes:
        contestant: its name.
        kind: full (load) or paced (at the common rate).
        round: all contestants of a round were started for it.
        turn: windows of one turn were measured one right after the other, with the same texts.
        loop_ms: of the first process's first thread, where the event loop runs if the server is one process.
        other_ms: of all other threads, and of the processes that it started.
        answers: in the window.
        steal_share: of the CPUs' time, taken away by the hypervisor during the whole turn.
    """

    contestant: str
    kind: str
    round: int
    turn: int
    loop_ms: float
    other_ms: float
    answers: int
    steal_share: float | None = None

    @property
    def total_ms(self) -> float:
        """Of all threads."""
        return self.loop_ms + self.other_ms


def render(windows: Sequence[Window], rate: float) -> str:
    """Tables in Markdown, one per kind of load, and what they say of the goal; means over rounds, with t intervals."""
    turns = {(window.round, window.turn) for window in windows}
    stolen = {(window.round, window.turn) for window in windows if was_stolen(window.steal_share)}
    kept = [window for window in windows if (window.round, window.turn) not in stolen]
    rounds = len({window.round for window in kept})
    parts = [
        f"{rounds} rounds, every contestant started anew in each; {len(turns)} turns, {len(stolen)} of them left out "
        "because the hypervisor took CPU time away."
    ]
    for kind, where in ((FULL, "at full load"), (PACED, f"at {rate:g} requests per second")):
        parts += _tables([window for window in kept if window.kind == kind], where)
    return "\n\n".join(parts)


def _tables(windows: Sequence[Window], where: str) -> Iterator[str]:
    names = list(dict.fromkeys(window.contestant for window in windows))
    if not names:
        return
    first = names[0]
    lines = [
        f"CPU-ms per request {where}:",
        "",
        f"| | event loop | other threads | together | more than {first} |",
        "|---|--:|--:|--:|---|",
    ]
    for name in names:
        own = [window for window in windows if window.contestant == name]
        loop, other, total = (f"{_mean_of_rounds(own, field):.3f}" for field in FIELDS)
        threads = " | " if name == BARE else f"{loop} | {other}"
        more = "" if name == first else _more(windows, name, first, "total_ms").show("+.3f")
        lines.append(f"| {name} | {threads} | {total} | {more} |")
    yield "\n".join(lines)
    remarks = []
    if first == BARE and OURS in names:
        bare = _mean_of_rounds([window for window in windows if window.contestant == BARE], "total_ms")
        remarks.append(f"- {cpu_goal(where, bare, _more(windows, OURS, BARE, 'total_ms'))}")
    for name in names if OURS in names else ():
        if name not in (OURS, BARE):
            loop, other, total = (_more(windows, OURS, name, field).show("+.3f") for field in FIELDS)
            remarks.append(f"- {OURS} more than {name}: event loop {loop}, other threads {other}, together {total}")
    if remarks:
        yield "\n".join(remarks)


def _mean_of_rounds(windows: Sequence[Window], field: str) -> float:
    return float(_by_round({(w.round, w.turn): getattr(w, field) for w in windows}).mean())


def _by_round(values: Mapping[tuple[int, int], float]) -> NDArray[np.float64]:
    """[rounds]: the mean over the turns of each."""
    rounds: dict[int, list[float]] = {}
    for (number, _), value in values.items():
        rounds.setdefault(number, []).append(value)
    return np.array([np.mean(of_turns) for of_turns in rounds.values()])


def _more(windows: Sequence[Window], name: str, first: str, field: str) -> Interval:
    """The mean difference with its 95% interval over rounds, paired turn by turn."""
    own, others = (
        {(w.round, w.turn): getattr(w, field) for w in windows if w.contestant == contestant}
        for contestant in (name, first)
    )
    differences = _by_round({turn: value - others[turn] for turn, value in own.items()})
    low, high = ttest_1samp(differences, 0.0).confidence_interval() if len(differences) > 1 else (np.nan, np.nan)
    return Interval(float(differences.mean()), float(low), float(high))


def main(files: Sequence[str]) -> None:
    """Print what stored runs say together."""
    runs = [json.loads(Path(file).read_text()) for file in files]
    print(render(pool(runs), runs[0]["rate"]))


def pool(runs: Sequence[Mapping[str, Any]]) -> list[Window]:
    """The windows of several runs, as one run of all their rounds.

    Args:
        runs: as `benchmarks.serving.cpu` stores them; their limits may differ, which only end what hangs.

    Raises:
        SystemExit: there is none, or they cannot be taken together.
    """
    if not runs:
        raise SystemExit("there is no run to show; give the JSON of one or more")
    if len(runs) > 1:
        _check_alike(runs)
    common = set.intersection(*({window["contestant"] for window in run["windows"]} for run in runs))
    if not common:
        raise SystemExit("the runs have no contestant in common; show them one by one")
    windows: list[Window] = []
    for run in runs:
        next_round = 1 + max((window.round for window in windows), default=-1)
        own = msgspec.convert(run["windows"], list[Window])
        windows += [msgspec.structs.replace(window, round=next_round + window.round) for window in own]
    return [window for window in windows if window.contestant in common]


def _check_alike(runs: Sequence[Mapping[str, Any]]) -> None:
    first = _what_was_measured(runs[0])
    if not first["commit"] or first["commit"].endswith("+"):
        raise SystemExit("the code of a run is in no commit, and may differ from another's; show the runs one by one")
    for number, run in enumerate(runs):
        kind = _what_was_measured(run)
        if differing := [name for name, value in kind.items() if value != first[name]]:
            raise SystemExit(f"the runs differ in {', '.join(differing)}; show them one by one")
        if any(run["windows"] == other["windows"] for other in runs[:number]):
            raise SystemExit("a run is given twice; give each once")


def _what_was_measured(run: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: run[name] for name in ("sha256", "rate", "seconds", "paced_seconds", "server_cpus", "client_cpus")}
    host = {name: run["host"][name] for name in ("cpu_model", "cpu_features", "cpus", "versions")}
    return {**found, **host, "commit": run["commits"][OURS]}


if __name__ == "__main__":
    main(sys.argv[1:])
