"""One timer for all open requests: each is told of its end in time, from whatever loop it waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from serving.engine.contract import Expired, Work
from serving.engine.engine import LaneEngine
from tests.serving.engine.heartbeat import Heartbeat

SLACK_SECONDS = 0.1
Make = Callable[..., LaneEngine]


@pytest.fixture
def hung(make: Make, trouble: Any) -> Any:
    """An engine whose model does not come back before the end of the test."""
    engine = make("int8", lanes=1)
    release = threading.Event()
    trouble(engine.bundle, lambda input_ids: release.wait(20) and None)
    yield engine
    release.set()


async def _lateness(engine: LaneEngine, patience: float) -> float:
    work = Work((("refund",),), None, time.monotonic() + patience)
    with pytest.raises(Expired):
        await asyncio.wait_for(engine.answer(work), 5)
    return time.monotonic() - work.deadline


def test_every_deadline_is_kept_in_any_order_of_coming(hung: LaneEngine) -> None:
    """The timer stands for the earliest one: an earlier one that comes later must move it, a later one must follow."""

    async def scene() -> None:
        async with Heartbeat() as heart:
            patiences = (0.3, 0.1, 0.35, 0.2, 0.101, 0.25)
            lateness = await asyncio.gather(*(_lateness(hung, patience) for patience in patiences))
        assert min(lateness) >= 0
        assert max(lateness) <= SLACK_SECONDS + heart.excuse_seconds

    asyncio.run(scene())
    assert len(hung._deadlines) == 0


def test_a_timer_of_a_loop_that_has_ended_is_not_waited_for(hung: LaneEngine) -> None:
    """A request of the next loop, due after that timer, would never be told."""

    async def leave() -> None:
        task = asyncio.ensure_future(_lateness(hung, 0.1))
        await asyncio.sleep(0.01)
        task.cancel()

    async def stay() -> None:
        async with Heartbeat() as heart:
            late = await _lateness(hung, 0.3)
        assert late <= SLACK_SECONDS + heart.excuse_seconds

    asyncio.run(leave())
    asyncio.run(stay())


@pytest.mark.parametrize(("patience", "is_left"), [(0.5, False), (30.0, True)])
def test_a_timer_with_nothing_left_to_watch_wakes_nobody_soon(make: Make, patience: float, is_left: bool) -> None:
    """With short deadlines it would wake an idle server after every few requests; one far away costs nothing."""
    engine = make("int8", lanes=1)

    async def scene() -> None:
        await engine.answer(Work((("refund",),), None, time.monotonic() + patience))
        assert (engine._deadlines._timer is not None) is is_left
        late = await asyncio.gather(*(engine.answer(Work((("thanks",),), None, time.monotonic() + 30)) for _ in "ab"))
        assert len(late) == 2

    asyncio.run(scene())
