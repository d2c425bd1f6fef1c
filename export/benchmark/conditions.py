"""What else happened on the machine while something was timed: other programs, the hypervisor, the clock rate.

From /proc/stat, of the CPUs that this process may use: their busy time less this process's own is other people's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from serving.host import ROOT

WINDOW_SECONDS = 1.0
"""The system counts in hundredths of a second: shorter windows would show its rounding."""

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_IDLE, _IOWAIT, _STEAL = 3, 4, 7


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances of a measurement; None for what the system does not tell.

    Attributes:
        seconds: that were watched.
        cpus: that this process may use.
        own_cpus: of these, busy with this process, on average.
        foreign_cpus: of these, busy with other programs, on average.
        worst_foreign_cpus: the same in the worst second.
        steal_share: of their time, taken away by the hypervisor.
        load_average: of one minute, at the start.
        megahertz: lowest and highest clock rate seen at start and end.
        governor: of the clock rate.
        thread_variables: of the environment, that set numbers of threads and how they wait.
    """

    seconds: float
    cpus: int
    own_cpus: float
    foreign_cpus: float | None
    worst_foreign_cpus: float | None
    steal_share: float | None
    load_average: float | None
    megahertz: tuple[float, float] | None
    governor: str | None
    thread_variables: dict[str, str]


@dataclass(frozen=True)
class _Moment:
    """Counters in seconds, since whenever."""

    wall: float
    own: float
    busy: float | None
    stolen: float | None


@dataclass
class Watch:
    """Looks at the counters from time to time, from when it is made until `conditions` is asked for.

    Attributes:
        root: of the system's files.
        clock: seconds, monotonic.
        own_clock: CPU seconds of this process.
        cpus: to look at; None: those that this process may use.
    """

    root: Path = ROOT
    clock: Callable[[], float] = time.monotonic
    own_clock: Callable[[], float] = time.process_time
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    cpus: Collection[int] | None = None

    def __post_init__(self) -> None:
        """Take the first look."""
        self._moments = [self._look()]
        self._megahertz = _megahertz(self.root)
        self._load = _load_average(self.root)

    def sample(self) -> None:
        """Look again, if the last look is a while ago."""
        if self.clock() - self._moments[-1].wall >= WINDOW_SECONDS:
            self._moments.append(self._look())

    def conditions(self) -> Conditions:
        """What was seen up to now."""
        now = self._look()
        first = self._moments[0]
        seconds = max(now.wall - first.wall, 1e-9)
        rates = [*self._megahertz, *_megahertz(self.root)]
        cpus = len(self._watched)
        return Conditions(
            seconds=seconds,
            cpus=cpus,
            own_cpus=(now.own - first.own) / seconds,
            foreign_cpus=_foreign(first, now),
            worst_foreign_cpus=self._worst(now),
            steal_share=_stolen(first, now, cpus),
            load_average=self._load,
            megahertz=(min(rates), max(rates)) if rates else None,
            governor=_read(self.root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            thread_variables={name: self.environment[name] for name in _THREAD_VARIABLES if name in self.environment},
        )

    @property
    def _watched(self) -> Collection[int]:
        return _usable_cpus() if self.cpus is None else self.cpus

    def _look(self) -> _Moment:
        busy, stolen = _counters(self.root, self._watched)
        return _Moment(self.clock(), self.own_clock(), busy, stolen)

    def _worst(self, now: _Moment) -> float | None:
        """Of the windows long enough to tell; else of the whole time."""
        found = [_foreign(*pair) for pair in zip(self._moments, self._moments[1:], strict=False)]
        return max((one for one in found if one is not None), default=_foreign(self._moments[0], now))


def _foreign(first: _Moment, last: _Moment) -> float | None:
    """CPUs that others kept busy between two looks."""
    if first.busy is None or last.busy is None:
        return None
    foreign = (last.busy - first.busy) - (last.own - first.own)
    return max(0.0, foreign / max(last.wall - first.wall, 1e-9))


def _stolen(first: _Moment, last: _Moment, cpus: int) -> float | None:
    if first.stolen is None or last.stolen is None:
        return None
    return (last.stolen - first.stolen) / max(last.wall - first.wall, 1e-9) / cpus


def _counters(root: Path, cpus: Collection[int]) -> tuple[float | None, float | None]:
    """Busy and stolen seconds of the CPUs together; (None, None) where the system does not tell."""
    names = {f"cpu{number}" for number in cpus}
    lines = [line.split() for line in (_read(root / "proc/stat") or "").splitlines()]
    rows = [[int(ticks) for ticks in line[1:9]] for line in lines if line and line[0] in names]
    if not rows or any(len(row) <= _STEAL for row in rows):
        return None, None
    busy = sum(sum(row) - row[_IDLE] - row[_IOWAIT] - row[_STEAL] for row in rows)
    return busy / _TICKS, sum(row[_STEAL] for row in rows) / _TICKS


def _usable_cpus() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _megahertz(root: Path) -> list[float]:
    lines = (_read(root / "proc/cpuinfo") or "").splitlines()
    return [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]


def _load_average(root: Path) -> float | None:
    text = _read(root / "proc/loadavg")
    return float(text.split()[0]) if text else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
