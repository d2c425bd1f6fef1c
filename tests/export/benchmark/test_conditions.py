"""Foreign load, stolen time and clock rates, from files as a system writes them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from export.benchmark import Conditions, Watch, notes_on
from export.benchmark.drift import Drift
from export.benchmark.summary import Measurement

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class FakeSystem:
    """The files of a machine, and its clocks.

    Attributes:
        root: of the files.
        now: seconds.
        own: CPU seconds of this process.
        busy: CPU seconds of the first CPU that this process may use, its own included.
        stolen: seconds that the hypervisor took from it.
        elsewhere: CPU seconds of a CPU that this process may not use.
    """

    root: Path
    now: float = 100.0
    own: float = 5.0
    busy: float = 50.0
    stolen: float = 1.0
    elsewhere: float = 0.0
    megahertz: list[float] = field(default_factory=lambda: [3000.0, 2900.0])

    def write(self) -> None:
        """Put the counters into files."""
        cpus = sorted(os.sched_getaffinity(0))
        idle = int(10_000 * TICKS)
        lines = ["cpu  1 2 3 4 5 6 7 8 9 10"]
        for cpu in cpus:
            busy, stolen = (self.busy, self.stolen) if cpu == cpus[0] else (0.0, 0.0)
            user, system = int(0.75 * busy * TICKS), int(0.25 * busy * TICKS)
            lines.append(f"cpu{cpu} {user} 0 {system} {idle} 77 0 0 {int(stolen * TICKS)} 0 0")
        lines.append(f"cpu{max(cpus) + 1000} {int(self.elsewhere * TICKS)} 0 0 0 0 0 0 0 0 0")
        (self.root / "proc").mkdir(exist_ok=True)
        (self.root / "proc/stat").write_text("\n".join(lines) + "\nintr 5\n")
        (self.root / "proc/loadavg").write_text("1.25 0.50 0.25 1/100 7\n")
        rates = "\n".join(f"cpu MHz\t\t: {rate}" for rate in self.megahertz)
        (self.root / "proc/cpuinfo").write_text(f"model name : x\n{rates}\n")

    def watch(self, **environment: str) -> Watch:
        """A watch that reads these files and clocks."""
        self.write()
        return Watch(self.root, lambda: self.now, lambda: self.own, environment)

    def pass_time(self, seconds: float, *, own: float = 0.0, foreign: float = 0.0, stolen: float = 0.0) -> None:
        """Let time pass, in which CPUs are busy for so many seconds."""
        self.now += seconds
        self.own += own
        self.busy += own + foreign
        self.stolen += stolen
        self.write()


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    """A machine that has been up for a while."""
    return FakeSystem(tmp_path)


def test_what_others_compute_is_told_from_what_we_do(system: FakeSystem) -> None:
    """Our own load reported as foreign, and every benchmark would call itself disturbed."""
    watch = system.watch()
    system.pass_time(10.0, own=8.0, foreign=3.0)

    seen = watch.conditions()

    assert seen.own_cpus == pytest.approx(0.8)
    assert seen.foreign_cpus == pytest.approx(0.3, abs=0.01)
    assert seen.seconds == pytest.approx(10)
    assert seen.load_average == 1.25


def test_cpus_that_we_may_not_use_do_not_count(system: FakeSystem) -> None:
    """On a shared host other people's CPUs are always busy."""
    watch = system.watch()
    system.elsewhere = 500.0
    system.pass_time(10.0)

    assert watch.conditions().foreign_cpus == pytest.approx(0.0, abs=0.01)


def test_a_burst_is_seen_in_its_own_second(system: FakeSystem) -> None:
    """Averaged over a minute, ten busy seconds of another program look like nothing."""
    watch = system.watch()
    for place in range(60):
        system.pass_time(1.0, foreign=1.0 if place == 30 else 0.0)
        watch.sample()

    seen = watch.conditions()

    assert seen.foreign_cpus == pytest.approx(1 / 60, abs=0.002)
    assert seen.worst_foreign_cpus == pytest.approx(1.0, abs=0.02)


def test_looks_closer_together_than_the_counters_tick_are_not_taken(system: FakeSystem) -> None:
    """Within a hundredth of a second the counters jump by a whole tick: a quiet machine would look busy."""
    watch = system.watch()
    for _ in range(20):
        system.pass_time(0.01, foreign=0.01)
        watch.sample()
    system.pass_time(10.0)

    seen = watch.conditions()

    assert seen.worst_foreign_cpus == pytest.approx(0.2 / 10.2, abs=0.005)


def test_stolen_time_is_a_share_of_all_cpus(system: FakeSystem) -> None:
    """A hypervisor that takes time away shows in no other counter."""
    watch = system.watch()
    system.pass_time(10.0, stolen=2.0)

    assert watch.conditions().steal_share == pytest.approx(0.2 / len(os.sched_getaffinity(0)), abs=0.001)
    assert watch.conditions().foreign_cpus == pytest.approx(0.0, abs=0.01)


def test_other_cpus_than_our_own_can_be_watched(system: FakeSystem) -> None:
    """What runs on CPUs of its own is disturbed there, not where the watch runs."""
    system.write()
    other = max(os.sched_getaffinity(0)) + 1000
    watch = Watch(system.root, lambda: system.now, lambda: system.own, {}, cpus=frozenset({other}))
    system.elsewhere = 5.0
    system.pass_time(10.0, stolen=2.0)

    assert watch.conditions().steal_share == 0.0
    assert watch.conditions().cpus == 1
    assert watch.conditions().foreign_cpus == pytest.approx(0.5)


def test_clock_rates_and_thread_settings_are_recorded(system: FakeSystem) -> None:
    """A figure from a laptop on battery, or with OMP_NUM_THREADS=1 forgotten, is another figure."""
    watch = system.watch(OMP_NUM_THREADS="1", HOME="/root")
    system.megahertz = [1200.0, 2950.0]
    system.pass_time(1.0)

    seen = watch.conditions()

    assert seen.megahertz == (1200.0, 3000.0)
    assert seen.thread_variables == {"OMP_NUM_THREADS": "1"}


def test_a_system_without_such_files_is_told_apart_from_a_quiet_one(tmp_path: Path) -> None:
    """Zero foreign load where nobody looked would be an invention."""
    seen = Watch(tmp_path).conditions()

    assert (seen.foreign_cpus, seen.worst_foreign_cpus, seen.steal_share) == (None, None, None)
    assert (seen.load_average, seen.megahertz, seen.governor) == (None, None, None)
    assert "could not be looked for" in notes_on(seen, QUIET_DRIFT, [])[0]


def test_this_machine_can_be_watched() -> None:
    """Counters in another form than the fake ones would read as nothing."""
    watch = Watch()
    sum(range(2_000_000))

    seen = watch.conditions()

    assert seen.own_cpus > 0
    assert seen.foreign_cpus is not None


QUIET = Conditions(
    seconds=60.0, cpus=2, own_cpus=1.5, foreign_cpus=0.02, worst_foreign_cpus=0.2, steal_share=0.001,
    load_average=0.1, megahertz=None, governor=None, thread_variables={},
)  # fmt: skip
QUIET_DRIFT = Drift(change=0.0, p_value=1.0, rounds=6)


def test_a_quiet_measurement_has_no_notes() -> None:
    """Warnings that are always there are read by nobody."""
    assert notes_on(QUIET, QUIET_DRIFT, []) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"foreign_cpus": 0.3}, "Other programs kept 0.30 of the 2 CPUs busy on average"),
        ({"worst_foreign_cpus": 0.9}, "0.90 in the worst second"),
        ({"steal_share": 0.03}, "hypervisor took 3.0%"),
    ],
)
def test_a_disturbed_measurement_says_by_what(changed: dict[str, float], said: str) -> None:
    """Figures from a busy machine, believed."""
    import msgspec

    notes = notes_on(msgspec.structs.replace(QUIET, **changed), QUIET_DRIFT, [])

    assert len(notes) == 1
    assert said in notes[0]


@pytest.mark.parametrize(("change", "said"), [(0.08, "8% slower"), (-0.12, "12% faster")])
def test_drift_is_said_with_its_direction(change: float, said: str) -> None:
    """Slower and faster swapped sends the reader to the wrong end of the log."""
    (note,) = notes_on(QUIET, Drift(change=change, p_value=0.01, rounds=6), [])

    assert said in note


def test_too_few_rounds_and_unsteady_variants_are_said() -> None:
    """What was not looked for must not read as what was not there."""
    unsteady = Measurement(
        variant="teacher", runtime="torch", device="cpu", precision="fp32", threads=1, batch_size=1, p50_ms=1.0,
        p95_ms=None, p99_ms=None, samples=1, texts_per_second=1.0, round_seconds=(1.0,), is_steady=False,
    )  # fmt: skip

    drift, warm_up = notes_on(QUIET, None, [unsteady, unsteady])

    assert "fewer than 5 rounds" in drift
    assert warm_up.count("teacher (torch, fp32)") == 1
