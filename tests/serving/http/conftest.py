"""An ASGI caller without a network, an application over the toy bundle, and a real server in a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import pytest
import uvicorn

from serving.bundle import Bundle
from serving.engine.contract import Engine
from serving.engine.dummy import DummyEngine
from serving.http.app import create_app
from serving.http.protocol_limits import protocol_class
from serving.operations.settings import Limits, ServerSettings
from tests.serving.conftest import TASKS, make_bundle
from tests.serving.http.wire import QUICK, post, read_answers

Asgi = Callable[..., Any]


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


class Caller:
    """Calls an ASGI application as a server would, one request at a time."""

    def __init__(self, app: Asgi) -> None:
        self.app = app

    def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        chunks: list[bytes] | None = None,
    ) -> Answer:
        """Send a body (bytes as they are, anything else as JSON), or chunks without a content-length."""
        given = {"content-type": "application/json"} if body is not None else {}
        given |= {} if headers is None else dict(headers)
        parts = chunks if chunks is not None else [body if isinstance(body, bytes) else _encode(body)]
        if chunks is None:
            given["content-length"] = str(len(parts[0]))
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
            "state": {},
        }
        return asyncio.run(self._exchange(scope, parts))

    def get(self, path: str, **headers: str) -> Answer:
        """GET; underscores in header names are hyphens."""
        return self("GET", path, headers=_names(headers))

    def post(self, path: str, body: object, **headers: str) -> Answer:
        """POST of JSON; underscores in header names are hyphens."""
        return self("POST", path, body, headers=_names(headers))

    async def _exchange(self, scope: dict[str, Any], parts: list[bytes]) -> Answer:
        messages: list[dict[str, Any]] = []
        incoming = [
            {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
            for index, part in enumerate(parts)
        ]

        async def receive() -> dict[str, Any]:
            return incoming.pop(0) if incoming else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        await self.app(scope, receive, send)
        start, *rest = messages
        headers = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], headers, b"".join(message["body"] for message in rest))


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _encode(body: object) -> bytes:
    return b"" if body is None else msgspec.json.encode(body)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The toy bundle, which no test changes: a classification, a multilabel task and a regression over texts."""
    return Bundle.load(make_bundle(tmp_path_factory.mktemp("http") / "bundle", TASKS, ("text",)))


@pytest.fixture
def engine(bundle: Bundle) -> DummyEngine:
    """An engine that answers with the toy bundle."""
    return DummyEngine(bundle)


@pytest.fixture
def make_call() -> Callable[..., Caller]:
    """`make_call(engine, setting=value)`: a caller of an application."""

    def make(engine: Engine, **settings: Any) -> Caller:
        return Caller(create_app(engine, ServerSettings(**settings)))

    return make


@pytest.fixture
def call(engine: DummyEngine, make_call: Callable[..., Caller]) -> Caller:
    """A caller of the application with default settings."""
    return make_call(engine)


class RunningServer:
    """uvicorn in a thread, with our protocol."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.engine = engine
        self.app: Any = create_app(engine, settings)
        config = uvicorn.Config(
            self.app,
            http=protocol_class(settings.limits, self.app.refused, self.app.fast_path),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=settings.limits.idle_seconds,  # type: ignore[arg-type]
        )
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """A client's socket; reading waits five seconds at most."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def stop(self) -> None:
        """End it; everything that has begun is answered."""
        self.server.should_exit = True
        self._thread.join(timeout=20)
        assert not self._thread.is_alive()


@pytest.fixture
def run_server() -> Iterator[Callable[..., RunningServer]]:
    """`run_server(engine, limits=..., setting=value)`: a real server, stopped at the end."""
    running: list[RunningServer] = []

    def start(engine: Engine, limits: Limits | None = None, **settings: Any) -> RunningServer:
        running.append(RunningServer(engine, ServerSettings(limits=limits or Limits(), **settings)))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def limits() -> Limits:
    """Short ones; a test that asks for others names them as a parameter."""
    return QUICK


@pytest.fixture
def server(run_server: Callable[..., RunningServer], engine: DummyEngine, limits: Limits) -> Iterator[RunningServer]:
    """A server with these limits, which must still answer at the end of every test."""
    running = run_server(engine, limits)
    yield running
    engine.delay_seconds = 0.0
    with running.connect() as client:
        client.sendall(post())
        assert read_answers(client, 1)[0][0] == 200
