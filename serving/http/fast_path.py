"""The fast path: small requests whose head is known to the byte go from the socket to the engine and back at once.

Clients that keep their connection repeat the head of their requests, but for the body's length. Such a head is parsed
once, on the ordinary way through the HTTP parser and the ASGI application; where that ends with an answer, the head is
learnt. The next request with the same head needs neither, and no task either: its body is decoded, the engine begins
it, and the engine's call writes the answer. What that saves is in docs/decisions/0023.

Nothing else may differ. Whatever is not the plain case, pipelined, large, wrong or slow to come, takes the ordinary
way from its first byte; so does every request where keys, origins or an access log are to be looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from serving.engine.contract import Answered, Engine, Work
from serving.engine.tickets import SMALL_TEXTS
from serving.http.answering import Answering, is_large, written
from serving.http.exchange import Connection, head_of
from serving.http.limits import DEADLINE_HEADER, check_texts, deadline_seconds
from serving.http.metrics import Metrics
from serving.http.native import NativeApi, work_of
from serving.http.replies import cancelled, failed, headers_of
from serving.http.request import CLIENT_LEFT, Reply, Request, RequestIds

if TYPE_CHECKING:
    from serving.http.errors import Header
    from serving.http.protocol import PredictRequest
    from serving.operations.settings import ServerSettings

ROUTE = "/v1/predict"
SMALL_BODY_BYTES = 8192
"""What is larger takes the ordinary way unread: it may hold many texts, and would be decoded twice."""
KNOWN_HEADS = 256
LONGEST_HEAD_BYTES = 2048
PAUSE_SECONDS = 600.0
"""Without learning, where heads have proved not to come again."""
_REQUEST_LINE = b"POST %b HTTP/1.1" % ROUTE.encode()
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: ?(\d{1,9})\r\n", re.IGNORECASE)
_NEVER = re.compile(rb"auth|cookie|credential|expect|key|password|secret|session|token|transfer-encoding")
"""In names of headers that ask for more than an answer, or whose values are not to stay in memory."""

logger = logging.getLogger(__name__)


class Head(NamedTuple):
    """What a known head says.

    Attributes:
        seconds: that its requests may take.
        request_id: that the caller gave; None for none.
    """

    seconds: float
    request_id: bytes | None


class Found(NamedTuple):
    """A known head at the beginning of what came.

    Attributes:
        head: what it says.
        body_start: where it ends.
        missing: bytes of the body that are still to come; below 0 where more came than that.
    """

    head: Head
    body_start: int
    missing: int


class FastPath:
    """The heads that one server knows, and what a request passes on this way; for the event loop's thread."""

    def __init__(
        self, native: NativeApi, answering: Answering, metrics: Metrics, ids: RequestIds, settings: ServerSettings
    ) -> None:
        """Know no head yet."""
        self.native = native
        self.engine: Engine = answering.engine
        self.metrics = metrics
        self.ids = ids
        self._settings = settings
        self._heads: dict[bytes, Head] = {}
        self._learns_from = 0.0  # `time.monotonic()` seconds
        self._has_rested = False  # since the heads began to be learnt
        self._num_before = 0  # fast requests at that time

    @staticmethod
    def suits(settings: ServerSettings) -> bool:
        """Whether nothing is to be done per request that is done on the ordinary way only."""
        return settings.fast_path and settings.keys_file is None and not (settings.cors_origins or settings.access_log)

    def learn(self, data: bytes, parsed: Sequence[Header], request: Request) -> None:
        """Know a head from now on, if there is nothing to it but what was parsed.

        Where heads rarely come again (an id of its own in each), learning rests, since it would only cost; those that
        are known stay known meanwhile.

        Args:
            data: how a request began that was answered on the ordinary way; empty where it is not to be learnt from.
            parsed: its headers as the HTTP parser read them.
            request: the same for the application.
        """
        if not data or request.started < self._learns_from or (found := _split(data)) is None:
            return
        key, end, _ = found
        if key in self._heads or not _is_plain(data[:end], parsed):
            return
        if len(self._heads) >= KNOWN_HEADS:
            num_taken = self.metrics.fast_requests - self._num_before
            if num_taken < KNOWN_HEADS and not self._has_rested:
                self._learns_from, self._has_rested = request.started + PAUSE_SECONDS, True
                return
            self._heads.clear()
            self._num_before, self._has_rested = self.metrics.fast_requests, False
        settings = self._settings
        wished = request.headers.get(DEADLINE_HEADER)
        seconds = deadline_seconds(wished, settings.default_deadline_ms, settings.max_deadline_ms)
        self._heads[key] = Head(seconds, request.headers.get(b"x-request-id"))

    def find(self, data: bytes) -> Found | None:
        """The known head of a small request with which `data` begins; None for anything else."""
        split = _split(data)
        if split is None:
            return None
        key, end, length = split
        head = self._heads.get(key)
        if head is None or length > min(SMALL_BODY_BYTES, self._settings.limits.body_bytes):
            return None
        return Found(head, end, length - len(data) + end)

    def count(self, reply: Reply, started: float) -> None:
        """Count a request that came at that time, and has ended so."""
        self.metrics.finished(ROUTE, reply.status, time.monotonic() - started, reply.code)

    def count_gone(self, started: float) -> None:
        """Count a request whose client has left before its answer."""
        self.count(cancelled(CLIENT_LEFT, False, "native"), started)

    def take(self, connection: Connection, head: Head, body: bytes, started: float) -> tuple[FastExchange, Work] | None:
        """The exchange of a request with its work; None when its body is wrong or has many texts.

        Args:
            connection: on which nothing is under way.
            head: of the request.
            body: whole.
            started: when the head came, `time.monotonic()` seconds.
        """
        limits = self._settings.limits
        try:
            asked = self.native.read(body)
            work = work_of(asked, started + head.seconds)
            check_texts(work.texts, min(SMALL_TEXTS, limits.texts), limits.characters)
        except Exception:  # noqa: BLE001 - the ordinary way finds the same, and says it
            return None
        self.metrics.fast_requests += 1
        return FastExchange(self, connection, asked, started, self.ids.choose(head.request_id)), work


class FastExchange:
    """One request on the fast path, and its answer; beside `Exchange` for the connection.

    Attributes:
        keep_alive: whether the connection outlives the answer.
        response_started: whether the answer has left; there is no half of one.
    """

    __slots__ = (
        "_asked",
        "_connection",
        "_forget",
        "_path",
        "_request_id",
        "_started",
        "_task",
        "keep_alive",
        "response_started",
    )

    def __init__(
        self,
        path: FastPath,
        connection: Connection,
        asked: PredictRequest,
        started: float,
        request_id: bytes,
    ) -> None:
        """Ask nothing of the engine yet."""
        self.keep_alive = True
        self.response_started = False
        self._path = path
        self._connection = connection
        self._asked = asked
        self._started = started
        self._request_id = request_id
        self._forget: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, work: Work) -> None:
        """Hand the request to the engine."""
        try:
            self._forget = self._path.engine.begin(work, self._tell)
        except Exception as error:  # noqa: BLE001 - every failure becomes an answer
            self._fail(error)

    def disconnect(self) -> None:
        """The client has left: drop the request."""
        self._drop()
        self._path.count_gone(self._started)

    def cancel(self, reason: str | None = None) -> bool:
        """Drop the request, and tell why; False when it had its answer, or the client has left."""
        if self.response_started:
            return False
        self._drop()
        self._finish(cancelled(reason, False, "native"))
        return True

    def _drop(self) -> None:
        self.response_started = True
        if self._forget is not None:
            self._forget()
        if self._task is not None:
            self._task.cancel()

    def _tell(self, ending: Answered | Exception) -> None:
        """Answer; called by the engine, which is told nothing of what goes wrong here."""
        if isinstance(ending, Exception):  # not raised: it would know this frame, and the frame knows it
            self._fail(ending)
            return
        try:
            self._path.metrics.answered(ending, sum(ending.tokens))
            if is_large(ending):
                self._task = self._connection.loop.create_task(self._answer_later(ending))
                return
            self._finish(self._path.native.reply_to(self._asked, ending, self._started))
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)

    async def _answer_later(self, answered: Answered) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            try:
                reply_to = self._path.native.reply_to
                self._finish(await written(answered, lambda: reply_to(self._asked, answered, self._started)))
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self.response_started:
            logger.error("a request failed after its answer", exc_info=error)
            return
        self._finish(failed(error, "native", ROUTE, self._request_id))

    def _finish(self, reply: Reply) -> None:
        """Write the answer, count it, and leave the connection to the next request; where that fails, end it."""
        self.response_started = True
        self._forget = None
        connection = self._connection
        try:
            headers = [*connection.server_state.default_headers, *headers_of(reply, self._request_id)]
            self.keep_alive, head = head_of(reply.status, headers, keep_alive=self.keep_alive)
            connection.transport.write(head + reply.body)
            self._path.count(reply, self._started)
            if not self.keep_alive:
                connection.transport.close()
            connection.on_response_complete()
        except Exception:
            logger.exception("an answer could not be written")
            connection.transport.close()


def _split(data: bytes) -> tuple[bytes, int, int] | None:
    """A head without its body's length, where it ends, and that length; None where it has none, or no end."""
    end = data.find(_END, 0, LONGEST_HEAD_BYTES) + len(_END)
    found = _LENGTH.search(data, 0, end)
    if found is None:
        return None
    return data[: found.start(1)] + data[found.end(1) : end], end, int(found[1])


def _is_plain(head: bytes, parsed: Sequence[Header]) -> bool:
    """Whether a head says what was parsed and no more: no reader of it could find another request in it."""
    first, *lines = head[: -len(_END)].split(b"\r\n")
    if first != _REQUEST_LINE or head.count(b"\n") != len(lines) + 2 or head.count(b"\r") != len(lines) + 2:
        return False
    read = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            return False
        read.append((name.lower(), value.strip(b" \t")))
    names = [name for name, _ in read]
    return read == list(parsed) and names.count(b"content-length") == 1 and not _NEVER.search(b"\n".join(names))
