"""The engine as probes see it: before it is loaded, while it answers, and while the server drains."""

from __future__ import annotations

import asyncio
import time

import pytest

from serving.engine.contract import NotReady, State, Work
from serving.engine.dummy import DummyEngine
from serving.operations.front import Front


class StoppableEngine(DummyEngine):
    """The dummy with the two verbs that operations need."""

    async def swap(self, new_bundle: object) -> None:
        """Nobody swaps here."""

    async def drain(self, grace: float) -> int:
        """Nothing is ever left."""
        return 0

    def close(self) -> None:
        """Nothing is held."""


def ask(front: Front) -> int:
    """How many texts are answered."""
    return len(asyncio.run(front.answer(Work((("refund",),), None, time.monotonic() + 5))).tokens)


def test_before_the_bundle_is_loaded_nothing_is_ready_and_nothing_waits() -> None:
    """Lanes that are not there yet would be counted as lost, and page somebody at every start."""
    front = Front()
    front.start_draining()
    assert (front.state, front.is_open) == ("starting", False)
    load = front.load()
    assert (load.lanes, load.lanes_alive, load.requests) == (0, 0, 0)
    with pytest.raises(NotReady):
        ask(front)


@pytest.mark.parametrize(
    ("inner", "shown"),
    [("ready", "draining"), ("draining", "draining"), ("failed", "failed"), ("starting", "starting")],
)
def test_a_drain_hides_readiness_and_nothing_worse(inner: State, shown: State) -> None:
    """A failed engine that is called draining keeps its liveness probe at 200 for the whole drain."""
    front, engine = Front(), StoppableEngine()
    front.open(engine)
    engine.state = inner
    assert front.state == inner
    front.start_draining()
    assert front.state == shown


def test_a_draining_front_still_answers() -> None:
    """Until load balancers have noticed, their requests come here."""
    front = Front()
    front.open(StoppableEngine())
    front.start_draining()
    assert ask(front) == 1
    assert front.load().lanes == 1
