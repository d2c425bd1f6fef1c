"""One HTTP request as the handlers see it, and the answer they give; types of the ASGI seam."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from serving.engine.contract import Expired
from serving.http.errors import Header, HttpError

if TYPE_CHECKING:
    from serving.http.keys import Key
    from serving.operations.settings import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = b"application/json"
BODY_DEADLINE = "compressor.body_deadline"
"""Key of `scope["state"]`: until when `receive` may wait, in `time.monotonic()` seconds; the application says so."""
REASON = "compressor.reason"
"""The same, of the protocol: why it cancels the task that answers a request, one of these two."""
REQUEST_TIMEOUT = "request_timeout"
CLIENT_LEFT = "client_left"
STARTED = "compressor.started"
"""The same: when its head came, in `time.monotonic()` seconds, where that was a while ago."""
FIRST_BYTES = "compressor.first_bytes"
"""The same: how the request began, where the fast path may learn its head."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_encode = msgspec.json.Encoder().encode


class ClientGone(Exception):
    """The connection closed before the request was complete: nobody waits for an answer."""


class RequestIds:
    """Ids for requests that bring none: unlike those of any other process, and cheap."""

    def __init__(self) -> None:
        """Draw the part that all ids of this server share."""
        self._prefix = secrets.token_hex(6).encode()
        self._numbers = itertools.count()

    def choose(self, given: bytes | None) -> bytes:
        """The caller's id where it is one that can stand in a header and a log line, else a new one."""
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return b"%b-%x" % (self._prefix, next(self._numbers))


class Request:
    """What a handler may ask of a request.

    Attributes:
        path: decoded.
        headers: lower-case names to values; the last one of a repeated header.
        started: `time.monotonic()` when the server saw it.
        key: whose it is, once known; None where no key is asked for.
        texts: how many texts it held, once known.
        tokens: how many tokens the model read for it, once known.
        log_texts: the texts themselves, kept only where they are to be logged.
    """

    __slots__ = (
        "_receive",
        "_state",
        "headers",
        "key",
        "log_texts",
        "path",
        "query_string",
        "started",
        "texts",
        "tokens",
    )

    def __init__(self, scope: Message, receive: Receive, started: float) -> None:
        self.path: str = scope["path"]
        self.query_string: bytes = scope.get("query_string", b"")
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = started
        self.key: Key | None = None
        self.texts = 0
        self.tokens = 0
        self.log_texts: object = None
        self._receive = receive
        self._state = scope.setdefault("state", {})

    def query(self, name: str) -> str | None:
        """A parameter of the query string; None when it is not there."""
        if not self.query_string:
            return None
        return dict(parse_qsl(self.query_string.decode("latin-1"), keep_blank_values=True)).get(name)

    def read_json(self, limits: Limits, deadline: float) -> Awaitable[bytes]:
        """The body of a JSON request, as `read` gives it; HttpError 415 when its own headers say that it is none."""
        content_type = self.headers.get(b"content-type")
        if content_type is not None and content_type != JSON and not _is_json(content_type):
            shown = content_type.decode("latin-1")
            raise HttpError(415, "unsupported_media_type", f"content-type is '{shown}'; send application/json")
        return self.read(limits, deadline)

    async def read(self, limits: Limits, deadline: float) -> bytes:
        """The whole body; refused as soon as it is known to be too large, without reading the rest.

        Args:
            limits: of its size, and of the time in which it has to come: later than that, the server's protocol
                cancels the request.
            deadline: `time.monotonic()` seconds; where that is earlier, the body is waited for until then. Both
                need our own server (`serving.http.protocol_limits`).

        Raises:
            HttpError: 413 too large, 415 compressed.
            ClientGone: the connection closed first.
            Expired: the deadline came first.
        """
        headers, max_bytes = self.headers, limits.body_bytes
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            shown = encoding.decode("latin-1")
            raise HttpError(415, "unsupported_encoding", f"content-encoding is '{shown}'; send the body as it is")
        length = headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length[:19]) > max_bytes:
            raise _too_large(max_bytes)
        if deadline < self.started + limits.header_seconds:
            self._state[BODY_DEADLINE] = deadline
        try:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body: bytes = message.get("body", b"")
            if message.get("more_body", False):
                body = await self._read_rest(bytearray(body), max_bytes)
        except TimeoutError:
            raise Expired("the deadline passed before the request's body had come") from None
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        return body

    async def _read_rest(self, body: bytearray, max_bytes: int) -> bytes:
        more = True
        while more and len(body) <= max_bytes:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return bytes(body)


class Reply:
    """An answer on its way out.

    Attributes:
        status: of HTTP.
        body: whole.
        content_type: of the body.
        headers: more headers.
        code: the error's code; None for an answer.
    """

    __slots__ = ("body", "code", "content_type", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        content_type: bytes = JSON,
        *,
        headers: tuple[Header, ...] = (),
        code: str | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers
        self.code = code


def json_reply(content: object, status: int = 200, headers: tuple[Header, ...] = ()) -> Reply:
    """An answer of JSON."""
    return Reply(status, _encode(content), headers=headers)


def _is_json(content_type: bytes) -> bool:
    kind, _, parameters = content_type.lower().partition(b";")
    kind = kind.strip()
    is_json = kind == JSON or (kind.startswith(b"application/") and kind.endswith(b"+json"))
    charset = re.search(rb'charset\s*=\s*"?([^\s;"]+)', parameters)
    return is_json and (charset is None or charset[1] in (b"utf-8", b"utf8", b"us-ascii"))


def _too_large(max_bytes: int) -> HttpError:
    return HttpError(413, "too_large", f"the body is larger than {max_bytes} bytes; send fewer texts at a time")
