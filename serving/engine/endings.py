"""How an order's end comes to the one who waits for it on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from serving.engine.contract import Answered
from serving.engine.orders import Order

Ending = tuple[Order, Answered | Exception]

logger = logging.getLogger(__name__)


def tell(endings: Iterable[Ending]) -> None:
    """One wake-up of the event loop per finished order; for any thread."""
    for order, ending in endings:
        try:
            order.loop.call_soon_threadsafe(settle, order.future, ending)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            logger.debug("an answer came after its event loop had ended")


def settle(future: asyncio.Future[Answered], ending: Answered | Exception) -> None:
    """End a future that may have been cancelled meanwhile."""
    if future.done():
        return
    if isinstance(ending, Exception):
        future.set_exception(ending)
    else:
        future.set_result(ending)
