"""What the HTTP floor asks of an engine, and what an engine answers or raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.bundle import Bundle

COUNTERS: Mapping[str, str] = {
    "requests_answered": "Requests answered.",
    "requests_overloaded": "Requests refused at the door.",
    "requests_expired": "Requests whose deadline came first.",
    "requests_cancelled": "Requests that nobody waited for any more.",
    "requests_failed": "Requests that the model failed on.",
    "texts_run": "Texts that the model answered.",
    "tokens_run": "Tokens that the model read, padding not counted.",
    "calls": "Calls of the model.",
    "calls_merged": "Calls that held more than one text.",
    "lane_exceptions": "Calls that raised.",
    "lane_not_finite": "Calls that gave logits that are not numbers.",
    "lane_out_of_memory": "Calls that found no memory.",
    "lane_hangs": "Calls that did not come back in time.",
    "lanes_replaced": "Lanes given up and replaced by a new thread.",
    "swaps": "Bundles swapped in.",
}
"""What engines count, and how a metrics page describes it."""

State = Literal["starting", "ready", "draining", "failed"]


class Work(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        texts: each of 1 or 2 parts.
        tasks: names of the tasks to answer; None for all.
        deadline: `time.monotonic()` seconds; a later answer is worth nothing.
    """

    texts: tuple[tuple[str, ...], ...]
    tasks: tuple[str, ...] | None
    deadline: float


class Answered(msgspec.Struct, frozen=True):
    """What one request is answered with.

    Attributes:
        logits: per task [texts, outputs], all finite.
        truncated: per text, whether it was cut to the model's max_length.
        tokens: per text, the number of tokens that the model read, special tokens included.
        queue_seconds: from admission to the start of its first text.
        tokenise_seconds: spent in the tokenizer for this request's texts, summed.
        run_seconds: its texts' shares of the calls of the model that held them, summed.
        bundle: the bundle that answered (a swap may have happened since): `bundle.answers(logits, top_k)`.
    """

    logits: dict[str, NDArray[np.float32]]
    truncated: list[bool]
    tokens: list[int]
    queue_seconds: float
    tokenise_seconds: float
    run_seconds: float
    bundle: Bundle


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How busy an engine is, at one moment.

    Attributes:
        queued_tokens: tokens of the texts that wait for a lane (estimated where not yet tokenised).
        queued_texts: texts that wait for a lane.
        requests: admitted requests that have no answer yet.
        running: texts inside a lane.
        predicted_wait_seconds: how long a text that came now would wait for a lane.
        lanes: lanes that should work.
        lanes_alive: lanes that do; fewer when a lane hangs in the model and was given up.
        counters: one of `COUNTERS` -> events since the start.
    """

    queued_tokens: int
    queued_texts: int
    requests: int
    running: int
    predicted_wait_seconds: float
    lanes: int
    lanes_alive: int
    counters: Mapping[str, int]


Told = Callable[[Answered | Exception], None]
"""Is told how a request ends: with its answer, or with what `Engine.answer` raises."""


class Engine(Protocol):
    """Answers requests; every method is called on the event loop's thread."""

    @property
    def bundle(self) -> Bundle:
        """The one that new work goes to."""
        ...

    @property
    def state(self) -> State:
        """`ready` takes work; `failed` never will again: the process is to be restarted."""
        ...

    async def answer(self, work: Work) -> Answered:
        """Answer one request; cancelling the awaiting task drops the work before it runs.

        Raises:
            Overloaded: refused at the door, nothing was computed.
            Expired: the deadline came first.
            NotReady: starting or draining.
            LaneFailed: the model raised, hung, or gave logits that are not numbers.
            UserError: the request itself is wrong (empty text, unknown task, ...).
        """
        ...

    def begin(self, work: Work, told: Told) -> Callable[[], None]:
        """Take one request in, for whoever does not wait in a task.

        Args:
            work: as of `answer`.
            told: called once, later, on this event loop's thread; must not raise.

        Returns:
            What drops the work, and keeps `told` from being called; without effect once it was.

        Raises:
            Exception: as of `answer`, where that is known at once; `told` is not called then.
        """
        ...

    def load(self) -> Load:
        """How busy it is now."""
        ...


class Overloaded(Exception):
    """Refused before tokenising: the deadline could not be met, or the queue is full (429)."""

    def __init__(self, retry_after: float, message: str = "the server is overloaded") -> None:
        """Name when to come again.

        Args:
            retry_after: seconds, above 0.
            message: what is full.
        """
        super().__init__(f"{message}; try again in {retry_after:.3g} s")
        self.retry_after = retry_after


class Expired(Exception):
    """The deadline passed before there was an answer (504)."""


class TooLate(Expired):
    """The deadline had passed when the request came: nothing was computed for it."""


class NotReady(Exception):
    """The engine is starting or draining and takes no work (503)."""


class LaneFailed(Exception):
    """The model failed on this request: an exception, NaN or infinity, or a hang (500, `model_failed`)."""
