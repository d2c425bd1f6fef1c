"""From cells to the figures in the table, by hand values."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.serving.outcomes import Outcomes, Summary, summarise
from benchmarks.serving.store import Cell, Store
from benchmarks.serving.table import Figures, difference, goals, ratio, render

SETUP = {
    "bundle": "toy 1", "file": "model.int8.onnx", "texts": 3, "mean_characters": 9.0, "server_cpus": [0],
    "client_cpus": [1], "limit_ms": 50.0, "servers": ["compressor", "fastapi", "litserve"],
}  # fmt: skip


def seen(goodput: float, *, holds: bool = True) -> Summary:
    times = np.arange(600) / 100
    ones = np.ones(600, dtype=np.bool_)
    summary = summarise(Outcomes(times, times, times + 0.01, 200 * ones, ones), seconds=6.0, limit_seconds=0.05)
    return msgspec.structs.replace(summary, goodput=goodput, holds=holds)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two rounds; per round the peaks are ours 300 + round, fastapi 150, litserve 100."""
    store = Store(tmp_path / "serving.json", SETUP)
    store.note("host", {"cpu_model": "toy", "load_average": [0.0]})
    for name, peak, cpu in (("compressor", 300.0, 2.2), ("fastapi", 150.0, 3.5), ("litserve", 100.0, 4.0)):
        store.note(name, {"title": name, "settings": "-", "memory_bytes": 10**8, "start_seconds": 1.0})
        for number in range(2):
            rate = peak + number * (name == "compressor")
            cells = [
                ("probe/0", "probe", rate, seen(rate)),
                ("probe/1", "probe", 2 * rate, seen(0.5 * rate, holds=False)),
                ("probe/2", "probe", 0.9 * rate, seen(0.9 * rate)),
                ("even", "even", 60.0, seen(60.0)),
                ("closed", "closed", 0.0, seen(400.0)),
                ("overload-3", "overload-3", 3 * rate, seen(0.98 * rate)),
                ("overload-10", "overload-10", 10 * rate, seen(0.5 * rate)),
            ]
            for key, kind, asked, summary in cells:
                cell = Cell(round=number, server=name, kind=kind, rate=asked, cpu_ms=cpu, summary=summary)
                store.add(f"{number}/{name}/{key}", cell)
    for number in range(2):
        store.add(f"{number}/bare", Cell(round=number, server="bare", kind="bare", rate=500.0, cpu_ms=1.5))
        store.add(f"{number}/bare-even", Cell(round=number, server="bare", kind="bare-even", rate=60.0, cpu_ms=2.0))
    return store


def test_the_peak_is_the_highest_rate_that_held_in_the_round(store: Store) -> None:
    """Taking the highest rate that was tried would reward overload."""
    assert Figures(store).rates("compressor") == {0: 300.0, 1: 301.0}


def test_ratios_are_paired_by_round() -> None:
    """A slow spell of the machine hits both servers of a round; unpaired, it would widen or shift the ratio."""
    found = ratio({0: 100.0, 1: 200.0, 2: 50.0, 5: 1.0}, {0: 50.0, 1: 100.0, 2: 25.0, 7: 1.0})
    assert found == pytest.approx((2.0, 2.0, 2.0))
    assert difference({0: 3.0, 1: 5.0}, {0: 2.0, 1: 4.0}) == pytest.approx((1.0, 1.0, 1.0))


def test_one_round_has_no_interval() -> None:
    """An interval of one value would look certain."""
    found = ratio({0: 2.0}, {0: 1.0})
    assert found.value == 2.0
    assert np.isnan(found.low)
    assert found.show() == "2.00 (one round)"
    assert np.isnan(difference({0: 2.0}, {0: 1.0}).high)
    assert np.isnan(ratio({0: 1.0}, {1: 1.0}).value)


def test_the_goals_are_judged_by_the_nearer_end(store: Store) -> None:
    """Each line names its figure, its goal and the right verdict."""
    lines = goals(Figures(store), SETUP["servers"])  # type: ignore[arg-type]
    assert "(fastapi): 2.00 (2.00 to 2.01)" in lines[0]
    assert lines[0].endswith("goal 1.5: reached")
    assert "bare loop's 2.00 ms at the same rate: 0.20 (0.20 to 0.20) ms, goal at most 0.50 ms: reached" in lines[1]
    assert "bare loop's 1.50 ms at full load: 0.70 (0.70 to 0.70) ms, goal at most 0.50 ms: MISSED" in lines[2]
    assert lines[3].endswith("reached")
    assert lines[4].endswith("goal 0.95: MISSED")


def test_an_interval_around_the_goal_decides_nothing(store: Store) -> None:
    """Catches a goal called reached, or missed, by rounds that say both."""
    rates = {"compressor": {0: 300.0, 1: 300.0, 2: 300.0}, "fastapi": {0: 150.0, 1: 220.0, 2: 210.0}}
    figures = Figures(store)
    figures.rates = lambda server: rates.get(server, {})  # type: ignore[method-assign]
    assert goals(figures, SETUP["servers"])[0].endswith("goal 1.5: NOT DECIDED")  # type: ignore[arg-type]


def test_a_goal_without_figures_is_not_reached(store: Store) -> None:
    """NaN compares false both ways; it must never read as reached."""
    store.cells = {key: cell for key, cell in store.cells.items() if cell.round == 0}
    assert all(line.endswith("NOT DECIDED") for line in goals(Figures(store), SETUP["servers"]))  # type: ignore[arg-type]


def test_the_table_has_a_row_per_server_and_the_file_is_continued(store: Store, tmp_path: Path) -> None:
    """A run that was interrupted must read back what it wrote, and refuse the file of another set-up."""
    again = Store(tmp_path / "serving.json", SETUP)
    assert again.cells == store.cells
    text = render(again)
    assert text.count("\n| ") == 4
    assert "| fastapi | 150 | 2.00 (2.00 to 2.01) | 10.0 / 10.0 | 3.50 | 3.50 | 98% | 50% |" in text
    assert "Not to be quoted" not in text
    with pytest.raises(ValueError, match="different: limit_ms"):
        Store(tmp_path / "serving.json", SETUP | {"limit_ms": 10.0})
    with pytest.raises(ValueError, match="different: servers"):
        Store(tmp_path / "serving.json", {key: value for key, value in SETUP.items() if key != "servers"})


def test_the_limit_grows_with_the_bare_loop(store: Store) -> None:
    """The goal is the larger of half a millisecond and 15%: of a slow model the share counts."""
    for number in range(2):
        store.add(f"{number}/bare", Cell(round=number, server="bare", kind="bare", rate=500.0, cpu_ms=4.0))
    assert "bare loop's 4.00 ms at full load: -1.80 (-1.80 to -1.80) ms, goal at most 0.60 ms: reached" in render(store)


def test_stolen_time_is_said(store: Store) -> None:
    """Times of a CPU that was somebody else's meanwhile are not the server's."""
    bare = store.cells["0/bare"]
    for share, is_said in ((0.01, False), (0.04, True)):
        store.add("0/bare", msgspec.structs.replace(bare, steal_share=share))
        assert ("the hypervisor took CPU time away in 1 of the cells" in render(store).splitlines()[0]) == is_said


def test_a_busy_machine_a_quick_run_and_a_late_generator_are_said(store: Store) -> None:
    """Such figures must not be quoted by accident."""
    store.note("host", {"cpu_model": "toy", "load_average": [3.0]})
    store.note("quick", True)
    cell = store.cells["0/fastapi/even"]
    late = msgspec.structs.replace(cell, summary=msgspec.structs.replace(seen(1.0), is_valid=False))
    store.add("0/fastapi/even", late)
    first = render(store).splitlines()[0]
    assert "quick run" in first
    assert "load 3.0" in first
    assert "invalid" in first
