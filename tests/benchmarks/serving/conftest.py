"""A clock that only moves when told, and a server that lives on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from benchmarks.serving.driver import Completion


class FakeClock:
    """Seconds that pass only when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.now


class FakeServer:
    """A `driver.Transport` to one worker that takes requests one after the other.

    `service(number)` tells how long the `number`-th request occupies the worker; a negative time means that it is
    refused at once. `send_seconds` is what the generator itself needs to send.
    """

    def __init__(self, clock: FakeClock, service: Callable[[int], float], send_seconds: float = 0.0) -> None:
        self.clock = clock
        self.service = service
        self.send_seconds = send_seconds
        self.queue: list[tuple[float, int, int]] = []
        self.free_at = 0.0
        self.sent: list[tuple[float, int]] = []
        self.cancelled: list[int] = []

    def send(self, request: int, text: int) -> None:
        """Queue it, or refuse it."""
        self.sent.append((self.clock.now, text))
        self.clock.now += self.send_seconds
        seconds = self.service(len(self.sent))
        if seconds < 0:
            self.queue.append((self.clock.now, request, 429))
            return
        self.free_at = max(self.free_at, self.clock.now) + seconds
        self.queue.append((self.free_at, request, 200))

    def cancel(self, request: int) -> None:
        """Note it."""
        self.cancelled.append(request)

    def wait(self, seconds: float) -> Iterable[Completion]:
        """Move the clock to the next end, or by the whole time."""
        end = self.clock.now + seconds
        self.queue.sort()
        if not self.queue or self.queue[0][0] > end:
            assert end < float("inf"), "the driver would wait for ever"
            self.clock.now = end
            return []
        done, request, status = self.queue.pop(0)
        self.clock.now = max(self.clock.now, done)
        return [Completion(request, status, b'{"label": "a"}', max(self.clock.now, done))]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_server(clock: FakeClock) -> Callable[..., FakeServer]:
    """Makes a server on the clock."""
    return lambda service, **options: FakeServer(clock, service, **options)
