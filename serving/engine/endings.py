"""How an order's end comes to the one who waits for it on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import weakref
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from serving.engine.contract import Answered

if TYPE_CHECKING:
    from serving.engine.orders import Order

Ending = tuple["Order", Answered | Exception]

logger = logging.getLogger(__name__)


class Mailbox:
    """Takes endings from any thread to the futures of one event loop.

    Attributes:
        loop: where the futures are settled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hold nothing yet."""
        self.loop = loop

    def put(self, future: asyncio.Future[Answered], ending: Answered | Exception) -> None:
        """Have a future settled soon; for any thread."""
        try:
            self.loop.call_soon_threadsafe(settle, future, ending)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            logger.debug("an answer came after its event loop had ended")

    def close(self) -> None:
        """Take nothing any more; for any thread."""


class EventMailbox(Mailbox):
    """A mailbox that lets go of the interpreter lock before it wakes the loop.

    `call_soon_threadsafe` holds the lock meanwhile: a loop that wakes at once, as it does where both share a CPU, can
    only go to sleep again until the lane gives the lock up. That is two switches between threads for each answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be called by the loop, on whose thread this is; OSError when no descriptor is left."""
        super().__init__(loop)
        self._endings: deque[tuple[asyncio.Future[Answered], Answered | Exception]] = deque()
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._descriptor).atexit = False  # a lane may still write to it
        loop.add_reader(self._descriptor, self._deliver)

    def put(self, future: asyncio.Future[Answered], ending: Answered | Exception) -> None:
        """Have a future settled soon; where the loop has ended, nobody looks."""
        self._endings.append((future, ending))
        os.eventfd_write(self._descriptor, 1)

    def close(self) -> None:
        """Be called no more; the descriptor is closed when no thread can write to it."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self.loop.remove_reader, self._descriptor)

    def _deliver(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)
        while self._endings:
            settle(*self._endings.popleft())


def open_mailbox(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """The mailbox that suits this system; for the loop's own thread."""
    if hasattr(os, "eventfd"):
        with contextlib.suppress(OSError):  # no descriptor is left
            return EventMailbox(loop)
    return Mailbox(loop)


def tell(endings: Iterable[Ending]) -> None:
    """One wake-up of the event loop per finished order; for any thread."""
    for order, ending in endings:
        order.mailbox.put(order.future, ending)


def settle(future: asyncio.Future[Answered], ending: Answered | Exception) -> None:
    """End a future that may have been cancelled meanwhile."""
    if future.done():
        return
    if isinstance(ending, Exception):
        future.set_exception(ending)
    else:
        future.set_result(ending)
