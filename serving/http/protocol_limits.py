"""uvicorn's HTTP protocol with what it lacks: time limits, size of the head, number of connections, and a word to
the application when a client leaves.

Everything is watched by one sweep over all connections, once a second; a request itself sets no timer, unless it waits
for a body that is due earlier than these limits (`Exchange.receive`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, cast
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.http.exchange import Exchange
from serving.http.fast_path import LONGEST_HEAD_BYTES, FastExchange, FastPath
from serving.http.request import CLIENT_LEFT, FIRST_BYTES, REQUEST_TIMEOUT, STARTED

if TYPE_CHECKING:
    from serving.operations.settings import Limits

MAX_HEAD_BYTES = 65_536
WIRE_FACTOR = 8
"""Chunked bodies carry their chunk sizes: so many bytes on the wire per byte of body are enough for anyone."""
MAX_PIPELINED = 64
SWEEP_SECONDS = 1.0
"""Between two looks at all connections, at most: a wake-up of an idle server costs more than the look."""
SHORTEST_SWEEP_SECONDS = 0.02
PAUSE_SECONDS = 0.25
"""A look that comes so much late shows that the whole process stood still."""
REFUSED_SECONDS = 1.0
"""How long a connection too many may be silent before the next look closes it."""
SMALL_READ_BYTES = 4096
HOLD_SECONDS = 0.02
"""How long the rest of a body is waited for behind a head that the fast path knows."""
_UPGRADE = re.compile(rb"(\r\n|\A\n?)upgrade:", re.IGNORECASE)
"""At the start of what comes, too: some clients send a head line by line."""
_CUT_UPGRADE = re.compile(rb"(?:\r\n|\A\n?)(u(?:p(?:g(?:r(?:a(?:d(?:e)?)?)?)?)?)?)\Z", re.IGNORECASE)
_LONGEST_CUT = len(b"\r\nupgrade")
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_REASONS = {
    400: ("Bad Request", "invalid_http", "this is no HTTP request"),
    408: ("Request Timeout", REQUEST_TIMEOUT, "the request did not arrive in time"),
    429: ("Too Many Requests", "too_many_connections", "the server has no connection left; try again"),
    431: ("Request Header Fields Too Large", "too_large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes"),
}


def protocol_class(
    limits: Limits, refused: Callable[[int, str], None] | None = None, fast_path: FastPath | None = None
) -> type[asyncio.Protocol]:
    """The protocol class of one server, for uvicorn's `http` setting.

    Args:
        limits: of each connection.
        refused: told the status and the code of what is refused here, and never comes to the application.
        fast_path: takes what it can of requests that come whole; None sends all to the application.
    """
    count = staticmethod(refused or (lambda status, code: None))
    members = {"limits": limits, "refused": count, "fast_path": fast_path, "sweep": None, "sweep_due": 0.0}
    return type("LimitedProtocol", (LimitedProtocol,), members)


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        limits: of the server.
        refused: counts a refusal by its status and code.
        fast_path: of the server; None for none.
        sweep: the next look at all connections of the server; None while there are none.
        sweep_due: when it is due.
    """

    limits: ClassVar[Limits]
    refused: ClassVar[Callable[[int, str], None]]
    fast_path: ClassVar[FastPath | None]
    sweep: ClassVar[asyncio.TimerHandle | None]
    sweep_due: ClassVar[float]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch; one connection too many is told so as soon as it speaks."""
        super().connection_made(transport)
        self._open: deque[Exchange | FastExchange] = deque()
        self._last: Exchange | None = None
        self._since: float | None = self.loop.time()
        self._blocked_since: float | None = None
        self._idle_since: float | None = None
        self._in_head = False
        self._in_body = False
        self._is_ending = False
        self._num_bytes = 0
        self._held = b""
        self._first_bytes = b""
        self._begun: tuple[bytes, asyncio.TimerHandle] | None = None
        self._started: float | None = None
        self._is_refused = len(self.connections) > self.limits.connections
        if type(self).sweep is None:
            self._sweep_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what nobody waits for."""
        super().connection_lost(exc)
        if self._release() and self.fast_path is not None and self._started is not None:
            self.fast_path.count_gone(self._started)
        for exchange in self._open:
            exchange.disconnect()
            exchange.cancel(CLIENT_LEFT)
        self._open.clear()
        self._last = None  # it knows its connection

    def shutdown(self) -> None:
        """Close as soon as what has begun is answered, be it the half of a head."""
        self._is_ending = True
        self._stop_holding()
        if self._in_head:
            return
        if self._open:
            self._open[-1].keep_alive = False
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse, within the limits, what the fast path does not take."""
        if self._is_refused:
            self._refuse(429)
            return
        if self._begun is not None:
            data = self._release() + data
        if not (self._open or self._in_head or self._in_body or self._held) and self._take_fast(data):
            return
        self._read(data)

    def _read(self, data: bytes) -> None:
        """What takes the ordinary way."""
        self._num_bytes += len(data)
        if self._since is None and not self._open:
            self._since = self.loop.time()
        self._idle_since = None
        data, self._held = self._held + data, b""
        if not self._in_body:
            data, self._held = _without_upgrade(data)
        self._parse(data)
        if self._held and self._in_body:  # the head ended before it: it is no name
            self._parse(self._held)
            self._held = b""
        self._started = None
        if self._num_bytes > MAX_HEAD_BYTES:
            self._check_size()

    def _take_fast(self, data: bytes) -> bool:
        """Whether the fast path took what came; where it did not, it may learn the head."""
        path = self.fast_path
        if path is None or self.flow.write_paused:
            return False
        found = path.find(data)
        if found is None:
            self._first_bytes = data[:LONGEST_HEAD_BYTES]
            return False
        started = self._started or time.monotonic()
        if found.missing > 0:
            return self._hold(data, started, started + min(HOLD_SECONDS, found.head.seconds))
        taken = None if found.missing else path.take(self, found.head, data[found.body_start :], started)
        if taken is None:
            return False
        exchange, work = taken
        self._since = self._idle_since = self._started = None
        self._open.append(exchange)
        exchange.begin(work)
        return True

    def _hold(self, data: bytes, started: float, end: float) -> bool:
        """Wait a moment for the rest of a body: many clients send head and body apart; False once that is over."""
        self._started = started
        if (left := end - time.monotonic()) <= 0:
            return False
        self._since = self._idle_since = None
        self._begun = data, self.loop.call_later(left, self._stop_holding)
        return True

    def _release(self) -> bytes:
        """Hold nothing any more; returns what was held, empty for nothing."""
        if self._begun is None:
            return b""
        (data, timer), self._begun = self._begun, None
        timer.cancel()
        return data

    def _stop_holding(self) -> None:
        """The rest did not come: from here on it is an ordinary request."""
        if begun := self._release():
            self._read(begun)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # the request was answered as HTTP/1.1; what follows it is of another protocol
        except httptools.HttpParserError:
            self._refuse(400)

    def on_message_begin(self) -> None:
        """A request begins: its time and its bytes are counted from here."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._since = self.loop.time()
        self._in_head = True
        self._num_bytes = 0

    def on_headers_complete(self) -> None:
        """The head is complete: the application takes over, unless earlier requests are still to be answered."""
        if len(self._open) >= MAX_PIPELINED:
            self.transport.abort()
            return
        self._last = exchange = self._make_exchange()
        if self._started is not None:
            exchange.scope["state"][STARTED], self._started = self._started, None
        if self._first_bytes:
            if exchange.keep_alive:
                exchange.scope["state"][FIRST_BYTES] = self._first_bytes
            self._first_bytes = b""
        self._in_head = False
        self._in_body = True
        self._open.append(exchange)
        if len(self._open) == 1:
            exchange.begin(self.app)
        else:
            self.flow.pause_reading()

    def give_up(self) -> int:
        """Tell those that wait for an answer without a task that none will come; returns how many."""
        fast = [exchange for exchange in self._open if isinstance(exchange, FastExchange)]
        return sum(exchange.cancel() for exchange in fast)

    def on_body(self, body: bytes) -> None:
        """A part of the body; nobody asks for what comes after the answer."""
        exchange = self._last
        if exchange is not None and not exchange.response_complete:
            exchange.feed(body)
            if exchange.num_waiting > HIGH_WATER_LIMIT:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """The request is complete: from now on the time is ours."""
        if self._last is not None:
            self._last.end_body()
        self._since = None
        self._in_head = False
        self._in_body = False
        if not self._open:  # it was answered before its end
            self._idle_since = self.loop.time()

    def on_response_complete(self) -> None:
        """Answers leave in the order of the requests; the sweep closes a connection that then stays silent."""
        self._open.popleft()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._open:
            cast("Exchange", self._open[0]).begin(self.app)  # the fast path takes none that has to wait
        else:
            self._idle_since = self.loop.time()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._blocked_since = self.loop.time()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._blocked_since = None

    def _make_exchange(self) -> Exchange:
        version = self.parser.get_http_version()
        path, query_string = _split_target(self.url)
        scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": self.parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": path,
            "query_string": query_string,
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
            "state": {},
        }
        return Exchange(
            self,
            scope,
            keep_alive=version != "1.0" and self.parser.should_keep_alive() and not self._is_ending,
            expects_continue=self.expect_100_continue,
        )

    def _check_size(self) -> None:
        if self._in_head:
            self._refuse(431)
        elif self._since is not None and self._num_bytes > MAX_HEAD_BYTES + WIRE_FACTOR * self.limits.body_bytes:
            self.transport.abort()

    def _refuse(self, status: int) -> None:
        """Answer and close, without the application; where the next answer is another request's, only close."""
        if self.transport.is_closing():
            return
        is_next = len(self._open) == 1 and self._in_body and not self._open[0].response_started
        if is_next or not self._open:
            self.transport.write(_refusal(status))
            if not self._open:
                type(self).refused(status, _REASONS[status][1])
        self.transport.close()

    def _sweep_later(self) -> None:
        kind = type(self)
        limits = self.limits
        seconds = min(SWEEP_SECONDS, limits.header_seconds / 4, limits.idle_seconds / 4)
        kind.sweep_due = self.loop.time() + max(seconds, SHORTEST_SWEEP_SECONDS)
        kind.sweep = self.loop.call_at(kind.sweep_due, self._sweep)

    def _sweep(self) -> None:
        kind = type(self)
        now = self.loop.time()
        late_seconds = now - kind.sweep_due
        kind.sweep = None
        if self.connections:
            self._sweep_later()
        for connection in list(self.connections):
            if isinstance(connection, kind):
                if late_seconds > PAUSE_SECONDS:
                    connection._forgive(late_seconds)
                connection._check_time(now)

    def _forgive(self, seconds: float) -> None:
        """Time in which the server read nothing is not the client's: what it sent may wait to be read."""
        if self._since is not None:
            self._since += seconds
        if self._blocked_since is not None:
            self._blocked_since += seconds
        if self._idle_since is not None:
            self._idle_since += seconds

    def _check_time(self, now: float) -> None:
        limit = self.limits.header_seconds
        if self._blocked_since is not None and now - self._blocked_since > limit:
            self.transport.abort()
        if self._idle_since is not None and now - self._idle_since > self.timeout_keep_alive:
            self.timeout_keep_alive_handler()
        if self._since is None:
            return
        if len(self._open) > int(self._in_body):
            self._since = now  # an earlier request is being answered: it is not to be lost for this one
        elif now - self._since > (REFUSED_SECONDS if self._is_refused else limit):
            self._since = None
            self._time_out()

    def _time_out(self) -> None:
        if self._in_head:
            self._refuse(408)
        elif not (self._open and self._open[-1].cancel(REQUEST_TIMEOUT)):
            self.transport.abort()  # nothing has begun, or its answer is already on the way


def _without_upgrade(data: bytes) -> tuple[bytes, bytes]:
    """Rename an upgrade header: nothing is offered here, and the parser would skip the request's body for it.

    Only the first head in what came is looked at: clients ask for an upgrade with the first request of a connection.

    Returns:
        The bytes to parse, and the beginning of such a name at their end: it waits for more, if the head goes on.
    """
    if _LONGEST_CUT < len(data) <= SMALL_READ_BYTES:  # for most requests, a shorter way to say that there is none
        lowered = data.lower()
        if b"upgrade" not in lowered and b"\nu" not in lowered[-_LONGEST_CUT:]:
            return data, b""
    begun = b""
    if cut := _CUT_UPGRADE.search(data[-_LONGEST_CUT:]):
        begun = cut[1]
        data = data[: -len(begun)]
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    if b"upgrade:" in head.lower():
        data = _UPGRADE.sub(rb"\1ignored:", head) + data[len(head) :]
    return data, begun


def _split_target(target: bytes) -> tuple[str, bytes]:
    """Path, decoded, and query string of a request's target."""
    if not target.startswith(b"/") or b"#" in target:
        url = httptools.parse_url(target)
        path, query_string = url.path, url.query or b""
    else:
        path, _, query_string = target.partition(b"?")
    decoded = path.decode("ascii")
    return unquote(decoded) if "%" in decoded else decoded, query_string


def _refusal(status: int) -> bytes:
    phrase, code, message = _REASONS[status]
    body = msgspec.json.encode({"error": {"code": code, "message": message}})
    retry = b"retry-after: 1\r\n" if status == 429 else b""
    return (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n".encode()
        + retry
        + b"connection: close\r\n\r\n"
        + body
    )
