"""uvicorn in one process, with an end that loses no request.

uvicorn stops listening at once on a signal, and closes kept-alive connections under the hands of clients that are
about to use them. Here a server first says that it is not ready, and goes on answering while every answer asks its
client to close the connection; only then does it stop listening.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn

from serving.http.exchange import CLOSE
from serving.http.protocol_limits import LimitedProtocol
from serving.operations.listen import refuse_new

HANDSHAKE_SECONDS = 0.25
"""For handshakes that have begun when the grace ends: one round trip to a client far away."""
LINGER_SECONDS = 0.25
"""For connections that were accepted at the last moment and have not sent their request yet."""
TICK_SECONDS = 0.02

logger = logging.getLogger(__name__)


class WebServer(uvicorn.Server):
    """One listening server; signals are its owner's."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        grace_seconds: float = 0.0,
        drain_seconds: float = 0.0,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """Listen to nothing yet.

        Args:
            config: of uvicorn.
            grace_seconds: how long to serve on after `stop`.
            drain_seconds: how long to wait, after that, for requests that have begun.
            on_stop: called once, at the beginning of the grace.
        """
        super().__init__(config)
        self._grace_seconds = grace_seconds
        self._drain_seconds = drain_seconds
        self._on_stop = on_stop
        self._stop = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Begin the end: `serve` returns when all is answered."""
        self._stop.set()

    def abort(self) -> None:
        """End without a grace: nothing has been promised yet."""
        self._grace_seconds = self._drain_seconds = 0.0
        self._stop.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone: uvicorn would raise them once more at its end, and a stop would look like a crash."""
        yield

    async def main_loop(self) -> None:
        """Wait for `stop`; once a second the date header is renewed."""
        await self.on_tick(0)
        ticking = asyncio.create_task(self._tick())
        try:
            await self._stop.wait()
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self.on_tick(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Grace, stop listening, answer what has begun, end the application."""
        self._on_stop()
        await self._ask_clients_to_close()
        await asyncio.sleep(self._grace_seconds)
        await refuse_new(sockets or [], min(HANDSHAKE_SECONDS, self._drain_seconds))
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        await self._finish_requests()
        await self.lifespan.shutdown()

    async def _ask_clients_to_close(self) -> None:
        self.server_state.default_headers.append(CLOSE)  # uvicorn's own cycles hold the list, ours look it up
        self.config.encoded_headers = [*self.config.encoded_headers, CLOSE]
        await self.on_tick(0)

    async def _finish_requests(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_seconds
        await self._wait_until(lambda: not self.server_state.connections, min(end, loop.time() + LINGER_SECONDS))
        for connection in list(self.server_state.connections):
            connection.shutdown()  # closes idle ones; a busy one closes after its answer
        await self._wait_until(lambda: not (self.server_state.connections or self.server_state.tasks), end)
        await asyncio.sleep(0)  # a task that is cancelled before its first step could not say so
        left = list(self.server_state.tasks)
        connections = [one for one in self.server_state.connections if isinstance(one, LimitedProtocol)]
        if number := len(left) + sum(connection.give_up() for connection in connections):
            logger.warning("%d request(s) were not answered within drain_seconds and are given up", number)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _wait_until(self, is_done: Callable[[], bool], end: float) -> None:
        loop = asyncio.get_running_loop()
        while not is_done() and loop.time() < end:
            await asyncio.sleep(TICK_SECONDS)


def web_config(app: Any, *, idle_seconds: float, http: Any = "httptools", loop: str = "auto") -> uvicorn.Config:
    """Settings of uvicorn for a server of ours: no access log, no proxy headers, no web sockets."""
    return uvicorn.Config(
        app,
        http=http,
        loop=loop,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=idle_seconds,  # type: ignore[arg-type]  # handed to call_later as it is
    )


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop that a server runs on (uvloop where it is installed), for whoever measures without one."""
    return uvicorn.Config("none:none", loop="auto", log_config=None).get_loop_factory()
