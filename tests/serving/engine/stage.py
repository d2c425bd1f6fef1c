"""A crew on a stage: real threads over a bundle in memory, and a clock that only the test moves."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from serving.bundle import Bundle
from serving.engine.admission import TokenEstimator
from serving.engine.contract import Answered, Work
from serving.engine.cost import CostModel
from serving.engine.crew import Crew
from serving.engine.lanes import LONGEST_STALL_SECONDS, Lane
from serving.engine.orders import Order
from serving.engine.schedule import Scheduler
from serving.engine.served import Served

COSTS = CostModel(fixed=0.001, per_token=0.0, per_square=0.0, merges=False)
MERGING = CostModel(fixed=1.0, per_token=1e-9, per_square=0.0)
PATIENCE = 1e9
WAIT_SECONDS = 20.0
"""For what comes at once, on a busy machine too."""


class Clock:
    """Stands still unless it is moved, so that no call hangs only because the machine is busy."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._num_looks = 0
        self._watchdog: threading.Thread | None = None

    def monotonic(self) -> float:
        """As `time.monotonic`; the watchdog's looks are counted."""
        thread = threading.current_thread()
        if thread.name == "watchdog":
            self._watchdog = thread
            self._num_looks += 1
        return self.now

    def leap(self, seconds: float = 2 * LONGEST_STALL_SECONDS) -> None:
        """Let time pass, and the watchdog look at every lane or end; without a number, every call hangs."""
        self.now += seconds
        goal = self._num_looks + 2  # a look that has begun may have read the clock before
        wait_for(lambda: self._num_looks >= goal or not (self._watchdog is None or self._watchdog.is_alive()))


def wait_for(is_so: Callable[[], object]) -> None:
    """Until something is so, which is soon."""
    end = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)


class Holding:
    """A model whose calls wait until the test lets each go."""

    def __init__(self) -> None:
        self._begun: queue.Queue[tuple[threading.Thread, threading.Event]] = queue.Queue()

    def __call__(self, input_ids: Any) -> None:
        """Begin one, and wait."""
        release = threading.Event()
        self._begun.put((threading.current_thread(), release))
        release.wait(WAIT_SECONDS)

    def next_call(self) -> tuple[threading.Thread, threading.Event]:
        """The thread of the next call that has begun, and what lets it go."""
        return self._begun.get(timeout=WAIT_SECONDS)

    def lose_call(self, clock: Clock) -> None:
        """Let the next call hang until its lane is given up, and then come back."""
        thread, release = self.next_call()
        clock.leap()
        release.set()
        thread.join(WAIT_SECONDS)


class Stage:
    """A crew over a bundle in memory, whose calls `trouble` sees first."""

    def __init__(self, clock: Clock, bundle: Bundle, trouble: Any, *, costs: CostModel, lanes: int) -> None:
        self.clock = clock
        self.trouble = trouble
        known = bundle.model.encoder.encode_checked(("known",))
        self.served = Served(bundle, costs, TokenEstimator(bundle.manifest.inputs.max_length, num_special=0), known)
        self.scheduler = Scheduler(lanes)
        self.crew = Crew(self.scheduler, queue_tokens=100_000, stall_seconds=0.04, end=end)

    def order(self, *texts: str, patience: float = PATIENCE) -> Order:
        """A request that is not submitted yet."""
        work = Work(tuple((text,) for text in texts), None, self.clock.now + patience)
        return Order(work, self.served, self.served.bundle.model.tasks, self.clock.now, Waiter())

    def ask(self, *texts: str) -> Order:
        """Submit a request, and wake lanes for it."""
        order = self.order(*texts)
        wake(self.crew.submit(order))
        return order


def wake(lanes: list[Lane]) -> None:
    """As the engine does."""
    for lane in lanes:
        lane.wake()


class Waiter:
    """Is told how a request ends, and keeps the first end."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Answered | Exception] = asyncio.get_running_loop().create_future()

    def __call__(self, ending: Answered | Exception) -> None:
        """Keep the end."""
        if not self.future.done():
            self.future.set_result(ending)


def end(order: Order, ending: Answered | Exception) -> None:
    """On the event loop, as the engine does."""
    if order.told is not None:
        order.told(ending)


async def ending(order: Order) -> Any:
    """What a request ends with."""
    assert isinstance(order.told, Waiter)
    return await asyncio.wait_for(order.told.future, WAIT_SECONDS)


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A scene on an event loop of its own."""
    asyncio.run(scene())


def fail_on_two_words(input_ids: Any) -> None:
    """A model that cannot stand them."""
    if input_ids.shape[1] == 2:
        raise RuntimeError("a bad text")
