"""The admin port: who may call it, and what it does."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.bundle import Bundle
from serving.engine.dummy import DUMMY_TASK, DummyEngine, dummy_bundle
from serving.errors import UserError
from serving.operations.admin import AdminApp, read_token
from serving.operations.front import Front
from serving.operations.swap import Swapper

TOKEN = "a-token-of-enough-characters"
AUTHORISED = (b"authorization", f"Bearer {TOKEN}".encode())


class SwappableEngine(DummyEngine):
    """The dummy with the verbs that operations need."""

    async def swap(self, new_bundle: Bundle) -> None:
        """Take the new bundle."""
        self.bundle = new_bundle

    async def drain(self, grace: float) -> int:
        """Nothing is ever left."""
        return 0

    def close(self) -> None:
        """Nothing is held."""


class Admin:
    """The application with a caller's hand on it."""

    def __init__(self) -> None:
        self.front = Front()
        self.drains = 0
        self.loaded: list[Path] = []
        self.is_loading, self.may_load = threading.Event(), threading.Event()
        self.may_load.set()
        self.app = AdminApp(TOKEN, self.front, Swapper(self.front, self._load), self._drain)

    def _load(self, folder: Path) -> Bundle:
        self.loaded.append(folder)
        if folder.name == "bad":
            raise UserError("golden example 0 gives other logits")
        self.is_loading.set()
        assert self.may_load.wait(30)
        labels = ("other", "labels") if folder.name == "relabelled" else DUMMY_TASK.labels
        return dummy_bundle([msgspec.structs.replace(DUMMY_TASK, labels=labels)], version="2")

    def _drain(self) -> None:
        self.drains += 1

    def call(self, method: str, path: str, body: bytes = b"", token: str | None = f"Bearer {TOKEN}") -> Any:
        """(status, JSON, headers) of one request, its body in two pieces."""
        return asyncio.run(self.ask(method, path, body, token))

    async def ask(self, method: str, path: str, body: bytes = b"", token: str | None = f"Bearer {TOKEN}") -> Any:
        """As `call`, in a loop that runs already."""
        headers = [] if token is None else [(b"authorization", token.encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        received: list[Mapping[str, Any]] = [
            {"type": "http.request", "body": body[:5], "more_body": True},
            {"type": "http.request", "body": body[5:]},
        ]
        sent: list[Mapping[str, Any]] = []

        async def receive() -> Mapping[str, Any]:
            return received.pop(0)

        async def send(message: Mapping[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start, content = sent
        assert dict(start["headers"])[b"content-length"] == str(len(content["body"])).encode()
        assert dict(start["headers"])[b"connection"] == b"close", "a kept connection holds up the end of the process"
        return start["status"], json.loads(content["body"]), dict(start["headers"])


@pytest.fixture
def admin() -> Admin:
    """A ready server's admin port."""
    made = Admin()
    made.front.open(SwappableEngine())
    return made


@pytest.mark.parametrize(
    "token", [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN]
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/admin/drain"), ("GET", "/admin/status"), ("GET", "/x")])
def test_nothing_happens_without_the_whole_token(admin: Admin, token: str | None, method: str, path: str) -> None:
    """Whoever reaches the port could else stop the server or make it load any folder."""
    status, body, headers = admin.call(method, path, token=token)
    assert (status, body["error"]["code"], headers[b"www-authenticate"]) == (401, "unauthorised", b"Bearer")
    assert admin.drains == 0


def test_a_swap_says_what_happened(admin: Admin) -> None:
    """A deployment script reads the answer; silence would count as success."""
    status, body, _ = admin.call("POST", "/admin/swap", b'{"bundle": "/models/new"}')
    assert (status, body["outcome"], body["serving"]["version"]) == (200, "swapped", "2")
    assert admin.loaded == [Path("/models/new")]
    status, body, _ = admin.call("POST", "/admin/swap", b'{"bundle": "/models/bad"}')
    assert (status, body["outcome"], body["reason"]) == (409, "refused", "golden example 0 gives other logits")
    status, body, _ = admin.call("GET", "/admin/status")
    assert (status, body["state"], body["serving"]["version"]) == (200, "ready", "2")
    assert body["last_swap"]["outcome"] == "refused"
    assert body["load"]["lanes"] == 1


@pytest.mark.parametrize("token", [f"bearer {TOKEN}", f"BEARER {TOKEN}", f"Bearer  {TOKEN} "])
def test_the_scheme_is_read_in_any_case(admin: Admin, token: str) -> None:
    """HTTP's schemes have no case: a client library that writes it small is not a stranger."""
    assert admin.call("GET", "/admin/status", token=token)[0] == 200


def test_only_a_caller_who_allows_changes_gets_them(admin: Admin) -> None:
    """Allowed to nobody, new labels need a restart; allowed to everybody, they come as a surprise."""
    status, body, _ = admin.call("POST", "/admin/swap", b'{"bundle": "/models/relabelled"}')
    assert (status, body["outcome"], body["serving"]["version"]) == (409, "refused", "1")
    status, body, _ = admin.call("POST", "/admin/swap", b'{"bundle": "/models/relabelled", "allow_changes": true}')
    assert (status, body["outcome"], body["serving"]["version"]) == (200, "swapped", "2")


def test_a_second_swap_at_a_time_is_told_so(admin: Admin) -> None:
    """As a failure of the server it would be tried again at once, by every deployment script."""

    async def both() -> tuple[Any, Any]:
        admin.may_load.clear()
        first = asyncio.create_task(admin.ask("POST", "/admin/swap", b'{"bundle": "/models/new"}'))
        await asyncio.to_thread(admin.is_loading.wait, 30)
        try:
            second = await admin.ask("POST", "/admin/swap", b'{"bundle": "/models/newer"}')
        finally:
            admin.may_load.set()
        return await first, second

    (first, _, _), (second, body, _) = asyncio.run(both())
    assert (first, second, body["error"]["code"]) == (200, 409, "swap_in_progress")


def test_drain_is_passed_on(admin: Admin) -> None:
    """An orchestrator without signals has no other way."""
    assert admin.call("POST", "/admin/drain")[0] == 202
    assert admin.drains == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nowhere", b"", 404, "not_found"),
        ("GET", "/admin/drain", b"", 405, "method_not_allowed"),
        ("POST", "/admin/swap", b"{", 422, "invalid_request"),
        ("POST", "/admin/swap", b'"\xff"', 422, "invalid_request"),
        ("POST", "/admin/swap", b'{"bundle": "x", "allow_change": true}', 422, "invalid_request"),
        ("POST", "/admin/swap", b'{"bundle": "' + b"x" * 70_000 + b'"}', 413, "too_large"),
    ],
)
def test_every_refusal_is_json_with_a_code(
    admin: Admin, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    """A misspelt `allow_changes` that is ignored is a swap that was not asked for."""
    given, content, _ = admin.call(method, path, body)
    assert (given, content["error"]["code"]) == (status, code)
    assert not admin.loaded


def test_a_body_that_breaks_off_is_no_order(admin: Admin) -> None:
    """What has come so far may be a whole request, but another one than was meant."""
    scope = {"type": "http", "method": "POST", "path": "/admin/swap", "headers": [AUTHORISED]}
    received: list[Mapping[str, Any]] = [
        {"type": "http.request", "body": b'{"bundle": "/models/new"}', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Mapping[str, Any]] = []

    async def receive() -> Mapping[str, Any]:
        return received.pop(0)

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(admin.app(scope, receive, send))
    assert (sent[0]["status"], admin.loaded) == (400, [])


def test_only_http_is_spoken(admin: Admin) -> None:
    """A web socket has no method, and no answer that it would understand."""

    async def never(*message: Any) -> Any:
        raise AssertionError("nothing is read or said")

    scope = {"type": "websocket", "path": "/admin/drain", "headers": [AUTHORISED]}
    with pytest.raises(RuntimeError, match="not websocket"):
        asyncio.run(admin.app(scope, never, never))
    assert admin.drains == 0


def test_a_starting_server_has_a_status_and_no_swap() -> None:
    """The first question of an operator is why the server is not ready yet."""
    before = time.monotonic()
    admin = Admin()
    status, body, _ = admin.call("GET", "/admin/status")
    assert (status, body["state"], body["serving"]) == (200, "starting", None)
    assert 0 <= body["uptime_seconds"] <= time.monotonic() - before
    status, body, _ = admin.call("POST", "/admin/swap", b'{"bundle": "x"}')
    assert (status, body["error"]["code"]) == (503, "not_ready")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"short\n", "at least 16"),
        (b"x" * 15 + b"\n", "at least 16"),
        (b"two words, sixteen", "one word"),
        (b"\xff", "read"),
    ],
)
def test_a_poor_token_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """An empty file would make the empty token the right one."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_token(tmp_path / "token")
    with pytest.raises(UserError, match="none"):
        read_token(tmp_path / "none")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN
    (tmp_path / "token").write_text("x" * 16)
    assert read_token(tmp_path / "token") == "x" * 16
