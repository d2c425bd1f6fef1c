"""Disturbed measurements are made again, and what stays disturbed is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.serving import undisturbed as module
from benchmarks.serving.undisturbed import PAUSE_SECONDS, undisturbed, was_stolen


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept; none passes."""
    slept: list[float] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=slept.append))
    return slept


def watching(shares: Sequence[float | None]) -> Callable[[], Any]:
    """A factory of watches that see one share after the other."""
    left = iter(shares)
    return lambda: SimpleNamespace(conditions=lambda: SimpleNamespace(steal_share=next(left)))


@pytest.mark.parametrize(
    ("shares", "values", "wanted", "slept"),
    [
        ([0.0], [5], (5, 0.0, 1), 0),
        ([None], [5], (5, None, 1), 0),
        ([0.03, 0.0], [5, 6], (6, 0.0, 2), 1),
        ([0.0, 0.0], [-1, 6], (6, 0.0, 2), 0),
        ([0.03, 0.0, 0.0], [5, -1, 7], (7, 0.0, 3), 1),
        ([0.03, 0.04, 0.05, 0.06], [5, 6, 7, 8], (8, 0.06, 4), 3),
    ],
)
def test_what_was_disturbed_is_measured_again(
    pauses: list[float],
    shares: list[float | None],
    values: list[int],
    wanted: tuple[int, float | None, int],
    slept: int,
) -> None:
    """Catches a stolen measurement that counts, one that is repeated for ever, and a quiet one that is repeated."""
    left = iter(values)
    assert undisturbed(lambda: next(left), watching(shares), lambda value: value > 0) == wanted
    assert pauses == [PAUSE_SECONDS] * slept


def test_a_hundredth_of_the_time_is_let_pass() -> None:
    """Catches a limit that every virtual machine is above, and an unknown share that counts as stolen."""
    assert [was_stolen(share) for share in (None, 0.0, 0.01, 0.011, 0.5)] == [False, False, False, True, True]
