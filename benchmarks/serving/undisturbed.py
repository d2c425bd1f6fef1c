"""Measurements that were disturbed are made again: by a late generator, or by a hypervisor that takes CPU time away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from export.benchmark.conditions import Watch
from export.benchmark.notes import STEAL_SHARE

ATTEMPTS = 4
PAUSE_SECONDS = 20.0
"""Before the next attempt, where time was stolen: whoever takes it is seldom done within a second."""

Found = TypeVar("Found")


class Measured(NamedTuple, Generic[Found]):
    """The last of some measurements: the first that nothing disturbed, if there is one.

    Attributes:
        found: what it gave.
        steal_share: of the CPUs' time, taken away by the hypervisor meanwhile; None where the system does not tell.
        attempts: measurements that were made.
    """

    found: Found
    steal_share: float | None
    attempts: int


def undisturbed(
    measure: Callable[[], Found], watch: Callable[[], Watch], is_valid: Callable[[Found], bool] = lambda _: True
) -> Measured[Found]:
    """Measure until nothing disturbed it, at most four times.

    Args:
        measure: makes one measurement.
        watch: begins to look at the CPUs that the measurement uses.
        is_valid: whether a measurement was not disturbed by what it knows of itself.
    """
    for attempt in range(1, ATTEMPTS + 1):
        watching = watch()
        found = measure()
        measured = Measured(found, watching.conditions().steal_share, attempt)
        is_stolen = was_stolen(measured.steal_share)
        if is_valid(found) and not is_stolen:
            break
        if is_stolen and attempt < ATTEMPTS:
            time.sleep(PAUSE_SECONDS)
    return measured


def was_stolen(steal_share: float | None) -> bool:
    """Whether the hypervisor took so much that times are no longer the machine's own."""
    return steal_share is not None and steal_share > STEAL_SHARE
