"""Which cells a round is made of, with a bench that measures nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.serving.measure import EVEN_SHARE, Rounds
from benchmarks.serving.store import Cell, Store
from tests.benchmarks.serving.test_table import seen

HELD = {"compressor": 200.0, "peer": 100.0}


class StillBench:
    """Servers that hold what they hold; what was measured, and while which server ran."""

    closed_seconds = 2.0

    def __init__(self) -> None:
        self.servers = dict.fromkeys(HELD)
        self.running: set[str] = set()
        self.starts: list[tuple[str, ...]] = []
        self.measured: list[tuple[str, str, float]] = []

    def start_anew(self, names: Sequence[str]) -> None:
        """All of them, while none runs."""
        assert not self.running
        self.starts.append(tuple(names))

    def resume(self, name: str) -> None:
        """One server runs."""
        self.running.add(name)

    def pause(self, name: str) -> None:
        """It is held again."""
        self.running.remove(name)

    def measure(self, name: str, kind: str, rate: float, number: int) -> Cell:
        """A cell of the only server that runs; it was started in this round."""
        assert len(self.starts) == number + 1
        assert self.running == {name}
        self.measured.append((name, kind, rate))
        summary = msgspec.structs.replace(seen(rate, holds=rate <= HELD[name]), ok=int(2 * HELD[name]))
        return Cell(round=number, server=name, kind=kind, rate=rate, cpu_ms=1.0, summary=summary)

    def measure_bare(self, number: int, rate: float | None = None) -> Cell:
        """A cell of the loop, while no server runs."""
        assert not self.running
        self.measured.append(("bare", "bare" if rate is None else "bare-even", rate or 0.0))
        return Cell(round=number, server="bare", kind="bare", rate=rate or 300.0, cpu_ms=1.0)


@pytest.fixture
def bench() -> Any:
    """Has measured nothing."""
    return StillBench()


def test_every_round_has_all_that_the_table_compares(bench: Any, tmp_path: Path) -> None:
    """CPU of a server in one round beside the loop's in another tells of the machine, not of the server."""
    store = Store(tmp_path / "serving.json", {})
    rounds = Rounds(bench, store, 10)
    for number in range(2):
        rounds.run(number)
        kinds = Counter((cell.server, cell.kind) for cell in store.cells.values() if cell.round == number)
        assert all(kinds[name, kind] == 1 for name in HELD for kind in ("closed", "even", "overload-3", "overload-10"))
        assert all(kinds[name, "probe"] > 2 for name in HELD)
    even = {rate for _, kind, rate in bench.measured if kind in ("even", "bare-even")}
    (rate,) = even
    assert rate == pytest.approx(EVEN_SHARE * HELD["peer"], rel=0.05)


def test_every_round_starts_all_servers_anew_in_an_order_of_its_own(bench: Any, tmp_path: Path) -> None:
    """One start says where a process's memory lies; an interval over rounds of one start would not hold the next."""
    rounds = Rounds(bench, Store(tmp_path / "serving.json", {}), 10)
    for number in range(8):
        rounds.run(number)
    assert {frozenset(names) for names in bench.starts} == {frozenset(HELD)}
    assert len(set(bench.starts)) == 2


def test_the_bare_loop_is_measured_beside_our_server(bench: Any, tmp_path: Path) -> None:
    """The machine changes its speed within minutes: what is subtracted must come from the same one."""
    rounds = Rounds(bench, Store(tmp_path / "serving.json", {}), 10)
    for number in range(4):
        rounds.run(number)
    cpu_kinds = ("closed", "even", "bare", "bare-even")
    order = [(name, kind.removeprefix("bare").strip("-")) for name, kind, _ in bench.measured if kind in cpu_kinds]
    for place, (name, kind) in enumerate(order):
        if name == "bare":
            ours = "compressor", kind or "closed"
            assert ours in order[max(place - 1, 0) : place + 2]


def test_servers_take_turns_at_every_step_of_the_search(bench: Any, tmp_path: Path) -> None:
    """One whose whole search falls into a slow minute would look slow, and its rival fast."""
    Rounds(bench, Store(tmp_path / "serving.json", {}), 10).run(0)
    probes = [name for name, kind, _ in bench.measured if kind == "probe"]
    shared = 2 * min(Counter(probes).values())
    assert shared > 4
    assert all(
        {first, second} == set(HELD) for first, second in zip(probes[:shared:2], probes[1:shared:2], strict=True)
    )


def test_a_file_is_continued_not_measured_again(bench: Any, tmp_path: Path) -> None:
    """A run that was broken off goes on with the next cell."""
    lengths = []
    for _ in range(2):
        Rounds(bench, Store(tmp_path / "serving.json", {}), 10).run(0)
        lengths.append(len(bench.measured))
    assert lengths[0] == lengths[1] > 10


def test_a_search_that_is_continued_keeps_the_rates_it_has_measured(bench: Any, tmp_path: Path) -> None:
    """A verdict of one rate that is booked for another finds a peak that nobody has seen."""
    first = Rounds(bench, Store(tmp_path / "serving.json", {}), 10)
    first.run(0)
    store = Store(tmp_path / "serving.json", {})
    for key in [key for key in store.cells if key.endswith("/guess")]:
        del store.cells[key]
    bench.measured.clear()
    again = Rounds(bench, store, 10)
    again.run(0)
    assert bench.measured == []
    assert [again.peak(name, 0) for name in HELD] == [first.peak(name, 0) for name in HELD]
