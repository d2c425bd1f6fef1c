"""The admin port: swap, status and drain, behind a token of its own, on an address of its own."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from serving.engine.contract import Load, NotReady
from serving.errors import UserError
from serving.operations.front import Front
from serving.operations.swap import BundleName, SwapInProgress, Swapper, SwapResult

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Reply = tuple[int, object]

MAX_BODY_BYTES = 1 << 16
MIN_TOKEN_CHARACTERS = 16


class SwapRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /admin/swap`."""

    bundle: str
    allow_changes: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `GET /admin/status`."""

    state: str
    serving: BundleName | None
    load: Load
    last_swap: SwapResult | None
    uptime_seconds: float


class AdminError(Exception):
    """A refused call: its status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class AdminApp:
    """The ASGI application of the admin port."""

    def __init__(self, token: str, front: Front, swapper: Swapper, start_drain: Callable[[], None]) -> None:
        """Take the token that callers must present, and what they may do."""
        self._digest = _digest(token)
        self._front = front
        self._swapper = swapper
        self._start_drain = start_drain
        self._started = time.monotonic()
        self._routes: dict[str, tuple[str, Callable[[bytes], Awaitable[Reply]]]] = {
            "/admin/swap": ("POST", self._swap),
            "/admin/status": ("GET", self._status),
            "/admin/drain": ("POST", self._drain),
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request; anything but HTTP is refused."""
        if scope["type"] != "http":
            raise RuntimeError(f"the admin port speaks HTTP, not {scope['type']}")
        try:
            status, content = await self._answer(scope, receive)
        except AdminError as error:
            status, content = error.status, {"error": {"code": error.code, "message": str(error)}}
        body = msgspec.json.encode(content)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Message, receive: Receive) -> Reply:
        self._check_token(scope)
        method, handler = self._routes.get(scope["path"], ("", None))
        if handler is None:
            raise AdminError(404, "not_found", f"no such path; choose among: {', '.join(self._routes)}")
        if scope["method"] != method:
            raise AdminError(405, "method_not_allowed", f"{scope['path']} takes {method}")
        return await handler(await _read(receive))

    def _check_token(self, scope: Message) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, token = given.partition(b" ")
        is_right = hmac.compare_digest(hashlib.sha256(token.strip()).digest(), self._digest)
        if scheme.lower() != b"bearer" or not is_right:
            raise AdminError(401, "unauthorised", "send the admin token: Authorization: Bearer TOKEN")

    async def _swap(self, body: bytes) -> Reply:
        try:
            request = msgspec.json.decode(body, type=SwapRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise AdminError(422, "invalid_request", f'{error}. Send {{"bundle": "FOLDER"}}') from error
        try:
            result = await self._swapper.swap(Path(request.bundle), allow_changes=request.allow_changes)
        except SwapInProgress as error:
            raise AdminError(409, "swap_in_progress", str(error)) from error
        except NotReady as error:
            raise AdminError(503, "not_ready", str(error)) from error
        return (200 if result.outcome == "swapped" else 409), result

    async def _status(self, body: bytes) -> Reply:
        serving = BundleName.of(self._front.bundle) if self._front.is_open else None
        return 200, Status(
            state=self._front.state,
            serving=serving,
            load=self._front.load(),
            last_swap=self._swapper.last,
            uptime_seconds=time.monotonic() - self._started,
        )

    async def _drain(self, body: bytes) -> Reply:
        self._start_drain()
        return 202, {"state": "draining"}


def read_token(file: Path) -> str:
    """The admin token of a file; UserError when there is none, or one that can be guessed."""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the admin token file '{file}' cannot be read: {error}. Give another.") from error
    if len(token) < MIN_TOKEN_CHARACTERS or any(character.isspace() for character in token):
        raise UserError(
            f"the admin token in '{file}' must be one word of at least {MIN_TOKEN_CHARACTERS} characters. "
            "Make one: head -c 32 /dev/urandom | base64"
        )
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    is_more = True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise AdminError(400, "client_disconnected", "the connection closed before the body was complete")
        body += message.get("body", b"")
        is_more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            raise AdminError(413, "too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)
