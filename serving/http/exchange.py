"""One request and its answer on a connection: ASGI's `receive` and `send`, for an application whose answers are whole.

It stands in place of uvicorn's cycle, which can stream, checks the spelling of every header, and keeps an event per
request. What that costs is a good part of all that a request costs beside the model (docs/decisions/0013).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.http.request import BODY_DEADLINE, REASON, Message

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.server import ServerState

    from serving.http.errors import Header

CLOSE = (b"connection", b"close")
"""The header that ends a connection, in this spelling alone."""
CHUNK_BYTES = 64
"""What a part of a body costs beside its bytes: a client may send them one by one."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILURE = b"Internal Server Error"
_FAILURE_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_FAILURE)), CLOSE]

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """What an exchange needs of its connection.

    Attributes:
        loop: of the server.
        transport: where answers go.
        flow: whether the other side reads, and we do.
        tasks: those of all requests under way, of the whole server.
        server_state: of uvicorn; it has the headers of all answers at this moment.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    tasks: set[asyncio.Task[None]]
    server_state: ServerState

    def on_response_complete(self) -> None:
        """The next answer is another request's."""
        ...


class Exchange:
    """One request and its answer.

    Attributes:
        scope: of ASGI.
        keep_alive: whether the connection outlives the answer.
        num_waiting: bytes that the part of the body takes which the application has not asked for yet.
        more_body: whether some are still to come.
        disconnected: nobody waits for the answer.
        response_started: the application has begun to answer.
        response_complete: it has ended.
    """

    __slots__ = (
        "_chunks",
        "_connection",
        "_expects_continue",
        "_has_news",
        "_is_running",
        "_start",
        "_task",
        "_waiter",
        "disconnected",
        "keep_alive",
        "more_body",
        "num_waiting",
        "response_complete",
        "response_started",
        "scope",
    )

    def __init__(self, connection: Connection, scope: Message, *, keep_alive: bool, expects_continue: bool) -> None:
        """Begin with the head of a request."""
        self.scope = scope
        self.keep_alive = keep_alive
        self.num_waiting = 0
        self.more_body = True
        self.disconnected = self.response_started = self.response_complete = False
        self._connection = connection
        self._expects_continue = expects_continue
        self._has_news = self._is_running = False
        self._chunks: list[bytes] = []
        self._start: Message = {}
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def begin(self, app: ASGI3Application) -> None:
        """Have the application answer, in a task of its own."""
        connection = self._connection
        self._task = connection.loop.create_task(self._run(app))
        connection.tasks.add(self._task)

    def feed(self, body: bytes) -> None:
        """A part of the body came."""
        self._chunks.append(body)
        self.num_waiting += len(body) + CHUNK_BYTES
        self._tell()

    def end_body(self) -> None:
        """The body is complete."""
        self.more_body = False
        self._tell()

    def disconnect(self) -> None:
        """The client has left."""
        self.disconnected = True
        self._chunks.clear()
        self._tell()

    def cancel(self, reason: str) -> bool:
        """Cancel the application's task, and tell it why; False when it has not begun, or has ended."""
        self.scope["state"][REASON] = reason
        return self._is_running and self._task is not None and self._task.cancel()

    async def receive(self) -> Message:
        """What came of the body since the last call, or the news that there is nobody to answer.

        Raises:
            TimeoutError: nothing came before the deadline that the application has set.
        """
        connection = self._connection
        if self._expects_continue:
            self._expects_continue = False
            if not (self.response_started or connection.transport.is_closing()):
                connection.transport.write(_CONTINUE)
        if connection.flow.read_paused:  # also when the body is there: else nobody would see the client leave
            connection.flow.resume_reading()
        if not (self._has_news or self.disconnected or self.response_complete):
            await self._wait()
            if not self._has_news:
                raise TimeoutError
        self._has_news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = b"".join(self._chunks)
        self._chunks.clear()
        self.num_waiting = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """Take an answer's start, and then its whole body: both leave in one piece.

        Raises:
            RuntimeError: another message, an answer in parts, or a header that would be several.
            KeyError: a status that HTTP does not know, or a message without its parts.
        """
        connection = self._connection
        if connection.flow.write_paused and not self.disconnected:
            await connection.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self.response_started = True
            self._start = message
        elif kind == "http.response.body" and self.response_started and not self.response_complete:
            if message.get("more_body"):
                raise RuntimeError("this server sends whole answers only")
            self._finish(message["body"])
        else:
            raise RuntimeError(f"'{kind}' is not what an answer goes on with here")

    async def _run(self, app: ASGI3Application) -> None:
        self._is_running = True
        try:
            await app(self.scope, self.receive, self.send)  # type: ignore[arg-type]
            if not (self.response_complete or self.disconnected):
                logger.error("the application ended without a whole answer")
        except BaseException:  # whatever it is, the client gets an answer
            logger.exception("the application failed")
        finally:
            self._is_running = False
            self._connection.tasks.discard(self._task)
        if not (self.response_complete or self.disconnected):
            self._fail()

    def _fail(self) -> None:
        """Answer for an application that did not; where that cannot be written, end the connection."""
        if self.response_started or self._connection.flow.write_paused:
            self._connection.transport.close()
            return
        self.response_started = True
        self._start = {"status": 500, "headers": _FAILURE_HEADERS}
        self._finish(_FAILURE)

    def _finish(self, body: bytes) -> None:
        """Write head and body at once: one call of the kernel, and one packet."""
        connection = self._connection
        headers = [*connection.server_state.default_headers, *self._start["headers"]]
        self.keep_alive, head = head_of(self._start["status"], headers, keep_alive=self.keep_alive)
        connection.transport.write(head if self.scope["method"] == "HEAD" else head + body)
        self.response_complete = True
        self._chunks.clear()
        self._tell()
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()

    async def _wait(self) -> None:
        """Wait for news, at most until the deadline; only who waits needs a timer."""
        loop = self._connection.loop
        self._waiter = waiter = loop.create_future()
        deadline = self.scope["state"].get(BODY_DEADLINE)
        timer = None if deadline is None else loop.call_later(max(0.0, deadline - time.monotonic()), self._give_up)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()

    def _give_up(self) -> None:
        """The deadline came first: there are no news. An exception in the future would keep the waiting frame alive."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _tell(self) -> None:
        """Wake the application, if it waits."""
        self._has_news = True
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
            self._waiter = None


def head_of(status: int, headers: list[Header], *, keep_alive: bool) -> tuple[bool, bytes]:
    """An answer's head as it goes over the wire, and whether the connection outlives it.

    Args:
        status: of HTTP; KeyError for one that it does not know.
        headers: all of them, but for the one that ends a connection.
        keep_alive: whether the client agrees; a header says otherwise where it stands.

    Raises:
        RuntimeError: a header would be several.
    """
    if CLOSE in headers:
        keep_alive = False
    elif not keep_alive:
        headers.append(CLOSE)
    lines = b"\r\n".join(map(b": ".join, headers))
    if lines.count(b"\n") + lines.count(b"\r") != 2 * len(headers) - 2:
        raise RuntimeError("a header of the answer holds a line break")
    return keep_alive, b"%b%b\r\n\r\n" % (STATUS_LINE[status], lines)
