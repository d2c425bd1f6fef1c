"""The protocol's time limits to the sweep, on an event loop whose clock only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.engine.dummy import DummyEngine
from serving.http.app import create_app
from serving.http.protocol_limits import REFUSED_SECONDS, SWEEP_SECONDS, LimitedProtocol, protocol_class
from serving.operations.settings import Limits, ServerSettings
from tests.serving.http.wire import post

LIMITS = Limits(header_seconds=8.0, idle_seconds=20.0, connections=1)


class StillLoop(asyncio.SelectorEventLoop):
    """Time passes by `pass_by` alone."""

    now = 1000.0

    def time(self) -> float:
        """Of this loop's timers."""
        return self.now

    async def pass_by(self, seconds: float, step: float = SWEEP_SECONDS) -> None:
        """Let time pass, step by step."""
        for _ in range(round(seconds / step)):
            self.now += step
            for _ in range(10):  # whatever a sweep or a request sets going
                await asyncio.sleep(0)


class Wire(asyncio.Transport):
    """The server's end of a connection."""

    def __init__(self) -> None:
        super().__init__({"peername": ("client", 1), "sockname": ("server", 2)})
        self.received = b""
        self.end = ""
        self.is_paused = False

    def pause_reading(self) -> None:
        """The client is to wait."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """And to go on."""
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep what the client would read."""
        self.received += bytes(data)

    def is_closing(self) -> bool:
        """Whether it has ended."""
        return bool(self.end)

    def close(self) -> None:
        """After what was written."""
        self.end = self.end or "closed"

    def abort(self) -> None:
        """At once."""
        self.end = self.end or "aborted"


Act = Callable[[LimitedProtocol], None]


def speak(data: bytes) -> Act:
    """A client that sends this and then nothing more."""
    return lambda connection: connection.data_received(data)


def stop_reading(connection: LimitedProtocol) -> None:
    """A client that asks, and leaves the answer where it is."""
    connection.data_received(post())
    connection.pause_writing()


def connection_of(loop: StillLoop, state: ServerState, kind: Any) -> tuple[Any, Wire]:
    """A connection that has just been made."""
    app = create_app(DummyEngine(), ServerSettings(limits=LIMITS))
    config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_keep_alive=LIMITS.idle_seconds)  # type: ignore[arg-type]
    connection, wire = kind(config, state, {}, loop), Wire()
    connection.connection_made(wire)
    return connection, wire


def play(scene: Callable[[StillLoop], Awaitable[None]]) -> None:
    """A scene on a loop of its own."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await scene(loop)

    with asyncio.Runner(loop_factory=StillLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize(
    ("act", "seconds", "end", "told"),
    [
        (lambda connection: None, LIMITS.header_seconds, "aborted", b""),
        (speak(b"GET /livez HTT"), LIMITS.header_seconds, "closed", b"HTTP/1.1 408"),
        (speak(post(b'{"te', length=1000)), LIMITS.header_seconds, "closed", b"HTTP/1.1 408"),
        (speak(post()), LIMITS.idle_seconds, "closed", b"HTTP/1.1 200"),
        (stop_reading, LIMITS.header_seconds, "aborted", b""),
    ],
    ids=["silence", "half a head", "half a body", "silence after an answer", "no reading"],
)
def test_a_connection_lasts_as_long_as_the_settings_say(act: Act, seconds: float, end: str, told: bytes) -> None:
    """Twice the time is half the connections under attack; less loses clients that are only slow."""

    async def scene(loop: StillLoop) -> None:
        connection, wire = connection_of(loop, ServerState(), protocol_class(LIMITS))
        act(connection)
        await loop.pass_by(seconds)
        ends = [wire.end]
        await loop.pass_by(2 * SWEEP_SECONDS)
        ends.append(wire.end)
        connection.connection_lost(None)
        await loop.pass_by(2 * SWEEP_SECONDS)
        assert (ends, wire.received[: len(told)]) == (["", end], told)

    play(scene)


@pytest.mark.parametrize(
    "act",
    [speak(post(b'{"te', length=1000)), speak(post()), stop_reading],
    ids=["half a body", "silence after an answer", "no reading"],
)
def test_a_pause_of_the_server_is_not_the_clients(act: Act) -> None:
    """What it sent in time waits to be read: a request would be lost because the server stood still."""

    async def scene(loop: StillLoop) -> None:
        connection, wire = connection_of(loop, ServerState(), protocol_class(LIMITS))
        act(connection)
        await loop.pass_by(2 * SWEEP_SECONDS)
        loop.now += 2 * LIMITS.idle_seconds
        await loop.pass_by(2 * SWEEP_SECONDS)
        ends = [wire.end]
        await loop.pass_by(LIMITS.idle_seconds)
        ends.append(wire.end)
        connection.connection_lost(None)
        await loop.pass_by(2 * SWEEP_SECONDS)
        assert ends[0] == ""
        assert ends[1] != "", "the time after it is"

    play(scene)


def test_a_pause_just_longer_than_a_short_limit_is_not_the_clients_either() -> None:
    """A pause is told by how late a look comes, and looks come more often where limits are short."""
    limits = msgspec.structs.replace(LIMITS, header_seconds=1.0)

    async def scene(loop: StillLoop) -> None:
        connection, wire = connection_of(loop, ServerState(), protocol_class(limits))
        speak(post(b'{"te', length=1000))(connection)
        loop.now += 1.1
        await loop.pass_by(0.1, step=0.1)
        ends = [wire.end]
        await loop.pass_by(1.5, step=0.1)
        ends.append(wire.end)
        connection.connection_lost(None)
        await loop.pass_by(2 * SWEEP_SECONDS)
        assert ends == ["", "closed"]

    play(scene)


def test_a_connection_too_many_lasts_a_moment() -> None:
    """With the time of the others, the server would hold two times as many connections as it may."""

    async def scene(loop: StillLoop) -> None:
        state, kind = ServerState(), protocol_class(LIMITS)
        (first, held), (second, refused) = (connection_of(loop, state, kind) for _ in range(2))
        await loop.pass_by(REFUSED_SECONDS)
        assert refused.end == ""
        await loop.pass_by(2 * SWEEP_SECONDS)
        assert (refused.end, held.end) == ("aborted", "")
        for connection in (first, second):
            connection.connection_lost(None)
        await loop.pass_by(2 * SWEEP_SECONDS)

    play(scene)


@pytest.mark.parametrize("num_sent", [0, 20, len(post()) - 3], ids=["nothing", "half a head", "half a body"])
def test_at_the_end_what_a_client_has_begun_to_send_is_answered(num_sent: int) -> None:
    """Cut off, it is a failed request of a rollout, as any other; a connection without a request need not last."""

    async def scene(loop: StillLoop) -> None:
        connection, wire = connection_of(loop, ServerState(), protocol_class(LIMITS))
        connection.data_received(post()[:num_sent])
        await loop.pass_by(SWEEP_SECONDS)
        connection.shutdown()
        await loop.pass_by(SWEEP_SECONDS)
        if num_sent:
            assert (wire.end, wire.received) == ("", b"")
            connection.data_received(post()[num_sent:])
            await loop.pass_by(SWEEP_SECONDS)
        assert (wire.end, wire.received[:12]) == ("closed", b"HTTP/1.1 200" if num_sent else b"")
        connection.connection_lost(None)
        await loop.pass_by(2 * SWEEP_SECONDS)

    play(scene)
