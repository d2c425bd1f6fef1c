"""The engine that serves: requests come in on the event loop, are computed in lanes, and go back to the loop.

A request costs two thread hops: the event loop wakes a lane that is idle (a busy one needs no waking), and the
lane hands the answer back. The lane tokenises the text itself just before it runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

import msgspec

from serving.bundle import Bundle
from serving.engine.contract import Answered, Expired, Load, NotReady, State, Told, Work
from serving.engine.crew import Crew
from serving.engine.deadlines import Deadlines
from serving.engine.endings import wait_for_answer
from serving.engine.lanes import tokenise
from serving.engine.orders import Order, nothing_asked
from serving.engine.schedule import Scheduler
from serving.engine.served import Served
from serving.errors import UserError

LOST_SECONDS = 0.05
"""How long after a deadline an ending that a lane has begun to tell is waited for."""


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine computes.

    Attributes:
        lanes: calls of the model at the same time, each on a thread of its own.
        threads: that one call computes with; the session has them already, this is for the record.
        queue_tokens: tokens that may wait; what comes beyond is refused.
        batch: auto (texts share a call where that saves time), or how many may share one at most; 1 for never.
        batch_tokens: rows times longest of a shared call, at most.
        tokenisers: threads that tokenise what waits while the lanes are busy; for a GPU, whose one lane should do
            nothing but compute. On a CPU they would only take from the lanes.
        stall_seconds: a call hangs after this many seconds, unless its predicted duration asks for more.
    """

    lanes: int = 1
    threads: int = 1
    queue_tokens: int = 65_536
    batch: Literal["auto"] | int = "auto"
    batch_tokens: int = 4096
    tokenisers: int = 0
    stall_seconds: float = 10.0

    def __post_init__(self) -> None:
        """UserError for figures that no engine can work with."""
        for name in ("lanes", "threads", "queue_tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give a number of at least 1")
        if self.batch != "auto" and self.batch < 1:
            raise UserError(f"batch is {self.batch}; give 'auto', or the number of texts that may share a call")
        if not self.stall_seconds > 0:
            raise UserError(f"stall_seconds is {self.stall_seconds}; give seconds above 0")

    @property
    def max_rows(self) -> int | None:
        """Texts per call that were asked for; None for auto."""
        return None if self.batch == "auto" else self.batch


class LaneEngine:
    """Answers requests with a bundle in lanes; every method but `start` and `close` is for the event loop."""

    def __init__(self, bundle: Bundle, settings: EngineSettings | None = None) -> None:
        """Start nothing yet."""
        settings = settings or EngineSettings()
        rows = {} if settings.max_rows is None else {"max_rows": settings.max_rows}
        scheduler = Scheduler(settings.lanes, batch_tokens=settings.batch_tokens, **rows)
        self.settings = settings
        self._crew = Crew(scheduler, settings.queue_tokens, settings.stall_seconds, self._end)
        self._tokenisers = ThreadPoolExecutor(settings.tokenisers, "tokeniser") if settings.tokenisers else None
        self._first_bundle: Bundle | None = bundle
        self._served: Served | None = None
        self._state: State = "starting"
        self._deadlines = Deadlines(self._expire)
        self._quiet: asyncio.Event | None = None

    @property
    def bundle(self) -> Bundle:
        """The one that new work goes to."""
        bundle = self._first_bundle if self._served is None else self._served.bundle
        if bundle is None:
            raise NotReady("the engine has no bundle yet")
        return bundle

    @property
    def state(self) -> State:
        """See `serving.engine.contract.Engine`."""
        return "failed" if self._crew.has_failed else self._state

    def start(self) -> None:
        """Warm up, fit the cost model, and start the lanes; blocks for about half a second.

        Raises:
            UserError: several texts per call were asked for, and this artifact must not.
            BundleError: the model does not answer.
        """
        self._served = Served.prepare(self.bundle, self.settings.max_rows)
        self._first_bundle = None
        self._crew.start()
        self._state = "ready"

    async def answer(self, work: Work) -> Answered:
        """See `serving.engine.contract.Engine`."""
        return await wait_for_answer(self, work)

    def begin(self, work: Work, told: Told) -> Callable[[], None]:
        """See `serving.engine.contract.Engine`."""
        served = self._served
        if served is None or self._state != "ready":
            raise self._not_ready()
        model = served.bundle.model
        tasks = model.choose_tasks(work.tasks)
        model.encoder.check(work.texts)
        if not work.texts:
            return asyncio.get_running_loop().call_soon(told, nothing_asked(work, served, tasks)).cancel
        order = Order(work, served, tasks, time.monotonic(), told)
        items = tuple(order.ticket.items)
        woken = self._crew.submit(order)
        if self._tokenisers is not None and len(woken) < len(items):
            with contextlib.suppress(RuntimeError):  # no thread left: lanes tokenise what they find untokenised
                for item in items[len(woken) :]:
                    self._tokenisers.submit(tokenise, served, item)
        self._deadlines.watch(order)
        for lane in woken:  # last: a lane finds the interpreter lock free the sooner
            lane.wake()
        return partial(self._forget, order)

    def load(self) -> Load:
        """See `serving.engine.contract.Engine`."""
        return self._crew.load()

    async def drain(self, grace: float) -> int:
        """Take no more work, and wait until all that was taken is answered.

        Args:
            grace: seconds to wait; what is then unanswered ends with NotReady.

        Returns:
            How many requests ended so.
        """
        self._state = "draining"
        if self._deadlines:
            self._quiet = asyncio.Event()
            try:
                await asyncio.wait_for(self._quiet.wait(), grace)
            except TimeoutError:
                return self._crew.fail_all(NotReady("the engine stopped before it came to this request"))
        return 0

    async def swap(self, new_bundle: Bundle) -> None:
        """Warm another bundle up beside the running one, then give it all new work.

        Work that was admitted before ends on the old bundle, which is freed with its last answer.

        Raises:
            NotReady: the engine is starting, draining or failed.
            UserError, BundleError: as of `start`; the old bundle stays.
        """
        self._check_alive()
        served = await asyncio.to_thread(Served.prepare, new_bundle, self.settings.max_rows)
        self._check_alive()
        self._served = served
        self._crew.change_over(served)

    def close(self) -> None:
        """End the threads; unanswered requests end with NotReady."""
        self._state = "draining"
        self._crew.fail_all(NotReady("the engine was closed"))
        self._crew.stop()
        if self._tokenisers is not None:
            self._tokenisers.shutdown(wait=False, cancel_futures=True)

    def _not_ready(self) -> NotReady:
        return NotReady(f"the engine is {self.state}")

    def _check_alive(self) -> None:
        """NotReady also for a failed engine, which has no lane left to serve another bundle with."""
        if self._state != "ready":
            raise self._not_ready()
        if self._crew.has_failed:
            raise NotReady("the engine has failed; this process is to be restarted")

    def _expire(self, order: Order) -> None:
        """The deadline has come: whoever waits is told so, whatever the lane does."""
        expired = Expired("the deadline passed before there was an answer")
        if self._crew.drop(order, "requests_expired"):
            self._end(order, expired)
        else:  # its end is on the way, unless it was lost there
            order.loop.call_later(LOST_SECONDS, self._end, order, expired)

    def _end(self, order: Order, ending: Answered | Exception) -> None:
        """Tell whoever waits for an order how it ended; the first end counts."""
        if (told := order.told) is not None:
            self._leave(order)
            told(ending)

    def _forget(self, order: Order) -> None:
        """Nobody waits for an order any more."""
        if order.told is not None:
            self._leave(order)
            self._crew.drop(order, "requests_cancelled")

    def _leave(self, order: Order) -> None:
        order.told = None
        self._deadlines.forget(order)
        if self._quiet is not None and not self._deadlines:
            self._quiet.set()
