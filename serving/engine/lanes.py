"""Lanes: threads that call one session, one call each at a time; a lane that hangs is given up and replaced."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.engine.contract import LaneFailed
from serving.engine.orders import Rows
from serving.engine.served import Served
from serving.engine.tickets import Item
from serving.errors import BundleError, is_out_of_memory
from serving.manifest import TaskSpec
from serving.tokenise import Encoding

STALL_FACTOR = 50.0
"""A call that takes this many times its predicted duration hangs, within the bounds below."""

LONGEST_STALL_SECONDS = 120.0

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Outcome:
    """How a call ended.

    Attributes:
        rows: per item, the logits or the failure.
        seconds: of the calls of the model that came to an end.
        kinds: a counter's name for each exception on the way.
        has_answer: whether any text was answered.
        is_broken: the model fails on known text too.
    """

    rows: list[Rows | LaneFailed]
    seconds: float = 0.0
    kinds: list[str] = field(default_factory=list)
    has_answer: bool = False
    is_broken: bool = False


NOT_ENDED = Outcome([])


@dataclass(slots=True, eq=False)
class Call:
    """What a lane works on.

    Attributes:
        served: the bundle.
        tasks: what is asked of it.
        items: the texts; the first one decides when it runs.
        started: `time.monotonic()` seconds.
        limit_seconds: after which it counts as hung.
        outcome: how it ended, once it has.
    """

    served: Served
    tasks: tuple[TaskSpec, ...]
    items: list[Item]
    started: float
    limit_seconds: float
    outcome: Outcome = NOT_ENDED


class Lane:
    """One thread, and what it is doing.

    Attributes:
        call: under way, or given to it while it sleeps; None for none.
        is_idle: whether it sleeps, or is about to; its own thread's alone.
        is_given_up: whether another has taken its place.
        thread: itself.
    """

    def __init__(self, number: int, serve: Callable[[Lane], None]) -> None:
        """Start the thread.

        Args:
            number: for its name.
            serve: works until it is told to stop.
        """
        self._wake = threading.Lock()
        self._wake.acquire()
        self.call: Call | None = None
        self.is_idle = False
        self.is_given_up = False
        self.thread = threading.Thread(target=serve, args=(self,), name=f"lane-{number}", daemon=True)
        self.thread.start()

    def is_lost(self, now: float) -> bool:
        """Whether its thread ended or hangs in a call."""
        is_hung = self.call is not None and now - self.call.started > self.call.limit_seconds
        return is_hung or not self.thread.is_alive()

    def sleep(self) -> None:
        """Wait for `wake`, once for each."""
        self._wake.acquire()
        self.is_idle = False

    def wake(self) -> None:
        """End one `sleep`, also one that is still to come."""
        self._wake.release()


def stall_limit(seconds: float, predicted: float) -> float:
    """After how many seconds a call hangs: the setting, or more for calls that are long by nature."""
    return max(seconds, min(STALL_FACTOR * predicted, LONGEST_STALL_SECONDS))


def perform(call: Call) -> Outcome:
    """Run a call; when a shared one fails, its texts run one by one, so that only the guilty one fails."""
    outcome = Outcome([])
    _perform(call, call.items, outcome)
    return outcome


def tokenise(served: Served, item: Item) -> Encoding:
    """A text's tokens; the first lane that asks computes them."""
    encoding: Encoding | None = item.encoding
    if encoding is None:
        start = time.perf_counter()
        item.encoding = encoding = served.bundle.model.encoder.encode_checked(item.text)
        item.tokenise_seconds = time.perf_counter() - start
    return encoding


def _perform(call: Call, items: Sequence[Item], outcome: Outcome) -> None:
    try:
        encodings = []
        for item in items:  # a comprehension would be one call more
            encodings.append(tokenise(call.served, item))
        start = time.perf_counter()
        outputs = call.served.bundle.model.call(encodings, call.tasks)
        outcome.seconds += time.perf_counter() - start
    except BaseException as error:  # noqa: BLE001 - the lane lives on, also after a tokenizer's panic, no Exception
        outcome.kinds.append(_kind_of(error))
        if len(items) == 1:
            logger.error("a call of the model failed: %s: %s", type(error).__name__, error)
            outcome.rows.append(_failure(error, items[0].index))
            return
        for item in items:
            _perform(call, [item], outcome)
        return
    outcome.has_answer = True
    if len(items) == 1:
        outcome.rows.append(outputs)
        return
    outcome.rows.extend([np.array(output[row : row + 1]) for output in outputs] for row in range(len(items)))


def _kind_of(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "lane_out_of_memory"
    return "lane_not_finite" if isinstance(error, BundleError) else "lane_exceptions"


def _failure(error: BaseException, index: int) -> LaneFailed:
    if isinstance(error, BundleError):
        return LaneFailed(f"the model gave logits that are not numbers for text {index}")
    return LaneFailed(f"the model failed on text {index} ({type(error).__name__})")
