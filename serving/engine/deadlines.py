"""Open requests and their deadlines: one timer for all that are open, where one for each would cost a busy server."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from serving.engine.orders import Order

SWEEP_SECONDS = 0.01
"""Between two looks at the open requests, at least: a request is told of its end at most this late."""
LONGEST_SLEEP_SECONDS = 60.0
SOON_SECONDS = 1.0
"""A timer that is due within this, and has nothing left to watch, is cancelled: a wake-up in vain costs more."""


class Deadlines:
    """Tells orders that their time is over; for one event loop at a time, and its thread alone."""

    def __init__(self, expire: Callable[[Order], None]) -> None:
        """Watch nothing yet; `expire` is called with each order whose deadline has come, at least once."""
        self._expire = expire
        self._open: set[Order] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def __len__(self) -> int:
        """How many orders are watched."""
        return len(self._open)

    def watch(self, order: Order) -> None:
        """Expire an order at its deadline, unless `forget` comes first."""
        self._open.add(order)
        if order.loop is not self._loop:
            self._loop, self._due = order.loop, math.inf
        if order.work.deadline < self._due:
            self._arm(order.loop, order.work.deadline)

    def forget(self, order: Order) -> None:
        """Watch an order no more; a timer that is due much later stays for the next one."""
        self._open.discard(order)
        if not self._open and self._timer is not None and self._due < time.monotonic() + SOON_SECONDS:
            self._timer.cancel()
            self._timer, self._due = None, math.inf

    def _arm(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = time.monotonic()
        self._due = min(max(due, now + SWEEP_SECONDS), now + LONGEST_SLEEP_SECONDS)
        self._timer = loop.call_later(self._due - now, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._due = None, math.inf
        now = time.monotonic()
        for order in [order for order in self._open if order.work.deadline <= now]:
            self._expire(order)
        if earliest := min((order.work.deadline for order in self._open if order.work.deadline > now), default=0.0):
            self._arm(loop, earliest)
