"""Sends a schedule through a transport and keeps the books; knows neither sockets nor the real clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.serving.arrivals import Schedule
from benchmarks.serving.outcomes import ANSWERED, GAVE_UP, Outcomes

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Completion:
    """One request came to its end.

    Attributes:
        request: the number it was sent with.
        status: HTTP status, or `outcomes.FAILED`.
        body: of the answer.
        seconds: when, on the driver's clock.
    """

    request: int
    status: int
    body: bytes
    seconds: float


class Transport(Protocol):
    """Takes requests at once, and reports their ends."""

    def send(self, request: int, text: int) -> None:
        """Send a text under a number; never waits."""
        ...

    def cancel(self, request: int) -> None:
        """Forget a request; its connection is closed, no completion follows."""
        ...

    def wait(self, seconds: float) -> Iterable[Completion]:
        """What ended, after at most that time; returns early as soon as there is something."""
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What the client accepts.

    Attributes:
        expected: per text, bytes that the right answer holds, written without a blank after a colon.
        patience: seconds from the intended time until a request is given up.
    """

    expected: Sequence[bytes]
    patience: float


class _Books:
    """Times of requests under way, and of those that came to an end."""

    def __init__(self, transport: Transport, clock: Clock, terms: Terms) -> None:
        self.transport = transport
        self.clock = clock
        self.terms = terms
        self.intended: list[float] = []
        self.dispatched: list[float] = []
        self.finished: list[float] = []
        self.statuses: list[int] = []
        self.is_expected: list[bool] = []
        self.texts: list[int] = []
        self.open: set[int] = set()
        self._by_age: deque[int] = deque()

    def send(self, intended: float, text: int) -> int:
        request = len(self.intended)
        self.intended.append(intended)
        self.texts.append(text)
        self.dispatched.append(self.clock())
        self.finished.append(np.nan)
        self.statuses.append(GAVE_UP)
        self.is_expected.append(False)
        self.open.add(request)
        self._by_age.append(request)
        self.transport.send(request, text)
        return request

    def collect(self, seconds: float) -> list[int]:
        """Wait and book what ended, answered or given up."""
        ended = []
        for completion in self.transport.wait(seconds):
            if completion.request not in self.open:
                continue
            self._end(completion.request, completion.status, completion.seconds)
            if completion.status == ANSWERED:
                marker = self.terms.expected[self.texts[completion.request]]
                self.is_expected[completion.request] = marker in completion.body.replace(b'": ', b'":')
            ended.append(completion.request)
        return ended + self._give_up()

    def next_expiry(self) -> float:
        """When the oldest open request is given up; infinity without one."""
        while self._by_age and self._by_age[0] not in self.open:
            self._by_age.popleft()
        return self.intended[self._by_age[0]] + self.terms.patience if self._by_age else np.inf

    def outcomes(self, start: float) -> Outcomes:
        return Outcomes(
            np.array(self.intended) - start,
            np.array(self.dispatched) - start,
            np.array(self.finished) - start,
            np.array(self.statuses, dtype=np.int64),
            np.array(self.is_expected, dtype=np.bool_),
        )

    def _give_up(self) -> list[int]:
        given_up = []
        now = self.clock()
        while self.next_expiry() <= now:
            request = self._by_age.popleft()
            self.transport.cancel(request)
            self._end(request, GAVE_UP, now)
            given_up.append(request)
        return given_up

    def _end(self, request: int, status: int, seconds: float) -> None:
        self.open.discard(request)
        self.finished[request] = seconds
        self.statuses[request] = status


def drive_open(schedule: Schedule, transport: Transport, clock: Clock, terms: Terms) -> Outcomes:
    """Send each request when it is due, whatever became of the others.

    Args:
        schedule: what is sent when.
        transport: where to.
        clock: seconds.
        terms: what the client accepts.

    Returns:
        One row per request of the schedule.
    """
    books = _Books(transport, clock, terms)
    start = clock()
    due = [start + offset for offset in schedule.intended.tolist()]
    texts = schedule.texts.tolist()
    position = 0
    while position < len(due) or books.open:
        now = clock()
        while position < len(due) and due[position] <= now:
            books.send(due[position], texts[position])
            position += 1
            now = clock()
        next_due = due[position] if position < len(due) else np.inf
        books.collect(max(0.0, min(next_due, books.next_expiry()) - now))
    return books.outcomes(start)


def drive_closed(
    texts: Sequence[int],
    transport: Transport,
    clock: Clock,
    terms: Terms,
    *,
    connections: int,
    seconds: float = np.inf,
) -> Outcomes:
    """Keep a number of requests under way: the next is sent when one ended. It finds what a server can do at most.

    Each counts from its own sending, as in a usual benchmark: a stall of the server holds back the requests
    that would have suffered from it, so these latencies are too good to be true and no result here uses them.

    Args:
        texts: their numbers, in the order of sending.
        transport: where to.
        clock: seconds.
        terms: what the client accepts.
        connections: requests under way at any time.
        seconds: nothing is sent after this time.
    """
    books = _Books(transport, clock, terms)
    start = clock()
    waiting = iter(texts)
    free = connections
    while True:
        for text in (next(waiting, None) for _ in range(free)):
            if text is not None and clock() - start < seconds:
                books.send(clock(), text)
        if not books.open:
            return books.outcomes(start)
        free = len(books.collect(max(0.0, books.next_expiry() - clock())))
