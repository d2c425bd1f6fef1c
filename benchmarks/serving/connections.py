"""HTTP/1.1 over kept-alive connections on one epoll: little CPU, and waits exact to some ten microseconds.

asyncio and uvloop round their timers to milliseconds, which is a good part of what is measured here.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Mapping, Sequence

import httptools

from benchmarks.serving.driver import Clock, Completion
from benchmarks.serving.outcomes import FAILED

READ_BYTES = 1 << 16
MAX_EVENTS = 512


def request_bytes(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """One POST request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


class _Connection:
    """One socket with its parser and the request that it carries."""

    __slots__ = (
        "body",
        "fileno",
        "has_answered",
        "is_complete",
        "keeps_alive",
        "parser",
        "request",
        "socket",
        "text",
        "unsent",
    )

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)  # EINPROGRESS; the socket becomes writable, or reports its error
        self.fileno = self.socket.fileno()
        self.parser = httptools.HttpResponseParser(self)
        self.request: int | None = None
        self.text = 0
        self.unsent = b""
        self.body = b""
        self.is_complete = False
        self.keeps_alive = False
        self.has_answered = False

    def on_body(self, part: bytes) -> None:
        """Called by the parser."""
        self.body += part

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.is_complete = True
        self.keeps_alive = self.parser.should_keep_alive()  # the parser knows it only now


class EpollTransport:
    """A `driver.Transport` over TCP."""

    def __init__(
        self, address: tuple[str, int], payloads: Sequence[bytes], clock: Clock, *, max_connections: int = 1024
    ) -> None:
        """Connect to nothing yet.

        Args:
            address: host (numeric) and port.
            payloads: per text, the whole request.
            clock: for the completions.
            max_connections: above it, requests wait here; they count from their intended time all the same.
        """
        self._address = address
        self._payloads = payloads
        self._clock = clock
        self._max_connections = max_connections
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._carriers: dict[int, _Connection] = {}
        self._backlog: deque[tuple[int, int]] = deque()
        self._cancelled: set[int] = set()
        self._broken: list[Completion] = []

    def send(self, request: int, text: int) -> None:
        """Send on an idle connection, else on a new one, else when one becomes idle."""
        if self._idle:
            self._start(self._idle.pop(), request, text)
        elif len(self._connections) < self._max_connections:
            connection = _Connection(self._address)
            self._connections[connection.fileno] = connection
            self._epoll.register(connection.fileno, select.EPOLLIN | select.EPOLLOUT)
            self._carry(connection, request, text)
        else:
            self._backlog.append((request, text))

    def cancel(self, request: int) -> None:
        """Close the connection that carries the request, or drop it from the backlog."""
        connection = self._carriers.pop(request, None)
        if connection is None:
            self._cancelled.add(request)
        else:
            connection.request = None
            self._close(connection)

    def wait(self, seconds: float) -> list[Completion]:
        """What ended; the epoll is waited for with select, whose timeout knows microseconds."""
        if seconds > 0 and not self._broken:
            select.select([self._epoll], [], [], seconds)
        completions, self._broken = self._broken, []
        events = self._epoll.poll(0, MAX_EVENTS)
        now = self._clock()
        for fileno, event in events:
            connection = self._connections.get(fileno)
            if connection is not None:
                self._handle(connection, event, now, completions)
        return completions

    def close(self) -> None:
        """Close everything."""
        for connection in list(self._connections.values()):
            self._close(connection)
        self._epoll.close()

    def _handle(self, connection: _Connection, event: int, now: float, completions: list[Completion]) -> None:
        if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            self._read(connection, now, completions)
        if event & select.EPOLLOUT and connection.fileno in self._connections:
            self._epoll.modify(connection.fileno, select.EPOLLIN)
            self._write(connection)

    def _read(self, connection: _Connection, now: float, completions: list[Completion]) -> None:
        try:
            data = connection.socket.recv(READ_BYTES)
            if data:
                connection.parser.feed_data(data)
        except BlockingIOError:
            return
        except (OSError, httptools.HttpParserError):
            data = b""
        if connection.is_complete:
            completions.append(self._finish(connection, now))
        elif not data:
            self._lose(connection, now, completions)

    def _finish(self, connection: _Connection, now: float) -> Completion:
        request = connection.request if connection.request is not None else -1
        self._carriers.pop(request, None)
        completion = Completion(request, connection.parser.get_status_code(), connection.body, now)
        connection.request, connection.body, connection.is_complete = None, b"", False
        connection.has_answered = True
        if connection.keeps_alive:
            self._reuse(connection)
        else:
            self._close(connection)
        return completion

    def _lose(self, connection: _Connection, now: float, completions: list[Completion]) -> None:
        """The other side closed: harmless when idle, tried again when it crossed our request on the way."""
        request, text = connection.request, connection.text
        was_used, is_untouched = connection.has_answered, not connection.body
        if request is not None:
            self._carriers.pop(request, None)
        self._close(connection)
        if request is None:
            return
        if was_used and is_untouched:
            self._carry_anew(request, text)
        else:
            completions.append(Completion(request, FAILED, b"", now))

    def _carry_anew(self, request: int, text: int) -> None:
        self._idle = [connection for connection in self._idle if connection.fileno in self._connections]
        self.send(request, text)

    def _reuse(self, connection: _Connection) -> None:
        while self._backlog:
            request, text = self._backlog.popleft()
            if request not in self._cancelled:
                self._start(connection, request, text)
                return
        self._idle.append(connection)

    def _start(self, connection: _Connection, request: int, text: int) -> None:
        self._carry(connection, request, text)
        self._write(connection)

    def _carry(self, connection: _Connection, request: int, text: int) -> None:
        connection.request, connection.text = request, text
        connection.unsent = self._payloads[text]
        self._carriers[request] = connection

    def _write(self, connection: _Connection) -> None:
        if not connection.unsent:
            return
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:  # closed under us; reading tells what is to be done
            connection.unsent = b""
            return
        connection.unsent = connection.unsent[sent:]
        if connection.unsent:
            self._epoll.modify(connection.fileno, select.EPOLLIN | select.EPOLLOUT)

    def _close(self, connection: _Connection) -> None:
        if self._connections.pop(connection.fileno, None) is not None:
            self._epoll.unregister(connection.fileno)
            connection.socket.close()
            if connection in self._idle:
                self._idle.remove(connection)
            self._open_for_backlog()

    def _open_for_backlog(self) -> None:
        while self._backlog and len(self._connections) < self._max_connections:
            request, text = self._backlog.popleft()
            if request not in self._cancelled:
                self.send(request, text)
                return
