"""A real server process over a toy bundle, and clients that count what becomes of their requests."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

ENTRY = Path(__file__).with_name("faulty_server.py")
TOKEN = "a-token-for-the-tests"
WAIT_SECONDS = 30.0
TEXTS = ("refund", "broken thanks", "thanks", "please refund", "broken", "unheard words", "thanks please", "please")


class Server:
    """A process of its own; faults are in it, asleep until a text calls them."""

    def __init__(self, folder: Path, token_file: Path, *settings: str) -> None:
        changes = ("port=0", "admin_port=0", f"admin_token_file={token_file}", *settings)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(ENTRY), str(folder), *changes], stderr=subprocess.PIPE, text=True
        )
        self.printed: list[str] = []
        self.url = self.admin_url = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._is_listed = threading.Event()
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.printed.append(line)
            if found := re.search(r"admin port: (http://\S+)", line):
                self.admin_url = found[1]
            if found := re.search(r"listening on (http://\S+)", line):
                self.url = found[1]
                self._is_listed.set()
        self._is_listed.set()

    def wait(self) -> Server:
        """Until it is ready."""
        assert self._is_listed.wait(WAIT_SECONDS)
        assert self.url, self.errors
        return self

    @property
    def port(self) -> int:
        """Where it listens."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def errors(self) -> str:
        """What it has printed so far."""
        return "".join(self.printed)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        return code

    def call(self, path: str, body: object = None, *, deadline_ms: int | None = None) -> tuple[int, Any]:
        """One request on a connection of its own: (status, JSON)."""
        base, headers = self.url, {"content-type": "application/json"}
        if path.startswith("/admin"):
            base, headers["authorization"] = self.admin_url, f"Bearer {TOKEN}"
        if deadline_ms is not None:
            headers["x-request-timeout-ms"] = str(deadline_ms)
        content = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(base + path, content, headers), timeout=WAIT_SECONDS) as reply:
                return reply.status, json.load(reply)
        except HTTPError as error:
            with error:
                return error.code, json.load(error)

    def predict(self, text: object, deadline_ms: int | None = None) -> tuple[int, Any, float]:
        """(status, JSON, seconds) of one prediction."""
        start = time.monotonic()
        status, body = self.call("/v1/predict", {"text": text}, deadline_ms=deadline_ms)
        return status, body, time.monotonic() - start


@dataclass
class Load:
    """Clients that ask until they are told to stop, or nothing listens any more.

    Attributes:
        statuses: status -> how many answers.
        lost: what became of requests that were sent and not answered.
        versions: of the models that answered.
        is_refused: whether a connection was refused, as after the end it must be.
    """

    port: int
    clients: int = 8
    is_polite: bool = True
    pause_seconds: float = 0.002
    statuses: dict[int, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    is_refused: bool = False
    is_over: bool = False
    longest_seconds: float = 0.0

    def __enter__(self) -> Load:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self.wait_for(3 * self.clients)
        return self

    def __exit__(self, *error: object) -> None:
        self.is_over = True
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()

    @property
    def answered(self) -> int:
        """All answers so far."""
        return sum(self.statuses.values())

    def wait_for(self, more: int) -> None:
        """Until so many more answers have come."""
        goal, end = self.answered + more, time.monotonic() + WAIT_SECONDS
        while self.answered < goal and not self.is_refused:
            assert time.monotonic() < end, (self.statuses, self.lost)
            time.sleep(0.005)

    def wait_for_refusal(self) -> None:
        """Until a client has found that nothing listens any more."""
        end = time.monotonic() + WAIT_SECONDS
        while not self.is_refused:
            assert time.monotonic() < end, (self.statuses, self.lost)
            time.sleep(0.005)

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self.clients)))

    async def _client(self, number: int) -> None:
        """Even ones keep their connection, odd ones open one for each request."""
        while not (self.is_over or self.is_refused):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                self.is_refused = True
                return
            try:
                while await self._ask(reader, writer, number) and number % 2 == 0 and not self.is_over:
                    await asyncio.sleep(self.pause_seconds)
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        body = json.dumps({"text": TEXTS[self.answered % len(TEXTS)]}).encode()
        start = time.monotonic()
        try:
            writer.write(request(body))
            head = await reader.readuntil(b"\r\n\r\n")
            content = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))  # type: ignore[index]
        except (OSError, asyncio.IncompleteReadError) as error:
            self.lost.append(f"client {number}: {error!r}")
            return False
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - start)
        status = int(head.split()[1])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            self.versions.add(json.loads(content)["model"]["version"])
        return b"connection: close" not in head


def request(body: bytes, *headers: str) -> bytes:
    """A prediction as bytes on the wire."""
    lines = ("POST /v1/predict HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


@pytest.fixture
def serve_toy(bundle_folder: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """`serve_toy("name=value", ...)` starts a server over the toy bundle and waits until it is ready."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    started: list[Server] = []

    def start(*settings: str, folder: Path = bundle_folder, is_waited_for: bool = True) -> Server:
        server = Server(folder, token_file, *settings)
        started.append(server)
        return server.wait() if is_waited_for else server

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()
        if server.process.stderr is not None:
            server._reader.join(WAIT_SECONDS)
            server.process.stderr.close()


@pytest.fixture
def load_on() -> Callable[..., Load]:
    """`load_on(server, clients=8)` is a context in which clients ask."""
    return lambda server, **options: Load(server.port, **options)


@pytest.fixture
def ask_all() -> Callable[[int, Sequence[object], int], list[Any]]:
    """`ask_all(port, texts, connections)`: the replies to many requests, many at a time, in order."""
    return lambda port, texts, connections: asyncio.run(_ask_all(port, texts, connections))


async def _ask_all(port: int, texts: Sequence[object], connections: int) -> list[Any]:
    replies: list[Any] = [None] * len(texts)
    numbers = iter(range(len(texts)))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            writer.write(request(json.dumps({"text": texts[number]}).encode()))
            head = await reader.readuntil(b"\r\n\r\n")
            content = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))  # type: ignore[index]
            replies[number] = json.loads(content)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return replies
