"""How an order's end comes from a lane to the event loop, and there to the one who waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from serving.engine.contract import Answered, Engine, Work
from serving.engine.orders import Order

Ending = tuple[Order, Answered | Exception]
End = Callable[[Order, Answered | Exception], None]

logger = logging.getLogger(__name__)


def tell(endings: Iterable[Ending], end: End) -> None:
    """One wake-up of the event loop per finished order, to call `end` there; for any thread."""
    for order, ending in endings:
        try:
            order.loop.call_soon_threadsafe(end, order, ending)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            logger.debug("an answer came after its event loop had ended")


async def wait_for_answer(engine: Engine, work: Work) -> Answered:
    """What an engine's `begin` tells, as its `answer` gives it."""
    future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
    forget = engine.begin(work, partial(_settle, future))
    try:
        return await future
    finally:
        forget()
        del future  # an exception knows this frame, and the future knows the exception


def _settle(future: asyncio.Future[Answered], ending: Answered | Exception) -> None:
    """End a future that may have been cancelled meanwhile."""
    if future.done():
        return
    if isinstance(ending, Exception):
        future.set_exception(ending)
    else:
        future.set_result(ending)
