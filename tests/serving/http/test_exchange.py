"""One request and its answer: what the application may do with `receive` and `send`, and what a client gets then."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from uvicorn.server import ServerState

from serving.engine.contract import Expired
from serving.http.exchange import CHUNK_BYTES, CLOSE, Exchange
from serving.http.request import BODY_DEADLINE, Message, Receive, Request, Send
from serving.operations.settings import Limits

App = Callable[[Message, Receive, Send], Awaitable[None]]
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}
BODY = {"type": "http.response.body", "body": b"body"}


class Transport(asyncio.Transport):
    """Keeps each piece that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep a piece."""
        self.pieces.append(bytes(data))

    def close(self) -> None:
        """Remember it."""
        self.is_closed = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.is_closed


class Flow:
    """Whether the client reads; counts how often the connection was told to read on."""

    def __init__(self) -> None:
        self.read_paused = True
        self.write_paused = False
        self.num_resumed = 0
        self.drained = asyncio.Event()

    async def drain(self) -> None:
        """Wait for a client that reads again."""
        await self.drained.wait()

    def resume_reading(self) -> None:
        """Count it."""
        self.num_resumed += 1


class Connection:
    """Of one exchange."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: Any = Transport()
        self.flow: Any = Flow()
        self.tasks: set[asyncio.Task[None]] = set()
        self.num_complete = 0
        self.server_state = ServerState()
        self.server_state.default_headers = [(b"date", b"today")]

    def on_response_complete(self) -> None:
        """Count it."""
        self.num_complete += 1

    def exchange(self, method: str = "POST", *, keep_alive: bool = True, expects_continue: bool = False) -> Exchange:
        """One with a head and no body yet."""
        scope: Message = {"method": method, "state": {}}
        return Exchange(self, scope, keep_alive=keep_alive, expects_continue=expects_continue)

    async def answer(self, exchange: Exchange, app: App) -> None:
        """Have an application answer, and wait for its end."""
        exchange.begin(app)  # type: ignore[arg-type]
        await asyncio.gather(*self.tasks)
        assert not self.tasks


async def answers(scope: Message, receive: Receive, send: Send) -> None:
    """An application that says what it should."""
    await send(START)
    await send(BODY)


def sends(*messages: Message) -> App:
    """An application that sends these messages."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def run(scenario: Callable[[Connection], Awaitable[None]]) -> None:
    """A scenario with a connection of its own."""

    async def main() -> None:
        await scenario(Connection())

    asyncio.run(asyncio.wait_for(main(), 20))


def test_head_and_body_leave_in_one_piece() -> None:
    """Two packets wake every client twice, and cost the server a call of the kernel per request."""

    async def scenario(connection: Connection) -> None:
        await connection.answer(connection.exchange(), answers)
        assert connection.transport.pieces == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 4\r\n\r\nbody"]
        assert (connection.num_complete, connection.transport.is_closed) == (1, False)

    run(scenario)


def test_the_answer_of_head_has_no_body() -> None:
    """What a client took for the beginning of the next answer."""

    async def scenario(connection: Connection) -> None:
        await connection.answer(connection.exchange("HEAD"), answers)
        assert connection.transport.pieces == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 4\r\n\r\n"]

    run(scenario)


@pytest.mark.parametrize("why", ["the client", "the application", "the server"])
def test_a_connection_that_ends_says_so_once(why: str) -> None:
    """Whoever wants its end: a client that is not told would send its next request into nothing."""

    async def scenario(connection: Connection) -> None:
        start = {**START, "headers": [*START["headers"], CLOSE]} if why == "the application" else START  # type: ignore[misc]
        if why == "the server":
            connection.server_state.default_headers.append(CLOSE)
        await connection.answer(connection.exchange(keep_alive=why != "the client"), sends(start, BODY))
        (piece,) = connection.transport.pieces
        assert piece.count(b"\r\nconnection: close\r\n") == 1
        assert connection.transport.is_closed

    run(scenario)


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb"])
def test_a_header_never_becomes_two(value: bytes) -> None:
    """Whatever a model's name or a caller's id brings along."""

    async def scenario(connection: Connection) -> None:
        await connection.answer(connection.exchange(), sends({**START, "headers": [(b"x-name", value)]}, BODY))
        assert connection.transport.pieces == []
        assert connection.transport.is_closed

    run(scenario)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [BODY],
        [{"type": "http.response.push"}],
    ],
    ids=["nothing", "a body without a head", "what is not known"],
)
def test_an_application_that_does_not_answer_is_answered_for(
    messages: list[Message], caplog: pytest.LogCaptureFixture
) -> None:
    """A client is not left waiting, and gets no half of an answer."""

    async def scenario(connection: Connection) -> None:
        await connection.answer(connection.exchange(), sends(*messages))
        (piece,) = connection.transport.pieces
        assert piece.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"connection: close" in piece
        assert piece.endswith(b"\r\n\r\nInternal Server Error")
        assert connection.transport.is_closed

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "messages",
    [
        [START],
        [START, START],
        [START, {**BODY, "more_body": True}],
    ],
    ids=["a head alone", "two heads", "a body in parts"],
)
def test_half_an_answer_ends_the_connection(messages: list[Message], caplog: pytest.LogCaptureFixture) -> None:
    """Nothing has been written yet, but the application may have meant anything."""

    async def scenario(connection: Connection) -> None:
        await connection.answer(connection.exchange(), sends(*messages))
        assert connection.transport.pieces == []
        assert connection.transport.is_closed

    run(scenario)
    assert len(caplog.records) == 1


def test_nothing_more_is_written_to_a_client_that_does_not_read() -> None:
    """What its application failed to say cannot be said past what waits already."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        raise RuntimeError

    async def scenario(connection: Connection) -> None:
        connection.flow.write_paused = True
        await connection.answer(connection.exchange(), app)
        assert connection.transport.pieces == []
        assert connection.transport.is_closed

    run(scenario)


def test_a_second_answer_is_not_written() -> None:
    """It would be taken for the next request's."""

    async def scenario(connection: Connection) -> None:
        await connection.answer(connection.exchange(), sends(START, BODY, BODY))
        assert len(connection.transport.pieces) == connection.num_complete == 1

    run(scenario)


def test_a_body_comes_as_far_as_it_is_there() -> None:
    """The application sees what came since it last asked, and waits for more with the connection open for reading."""
    seen: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        while not seen or seen[-1].get("more_body"):
            seen.append(await receive())
        await answers(scope, receive, send)
        seen.append(await receive())

    async def scenario(connection: Connection) -> None:
        exchange = connection.exchange()
        exchange.feed(b"one ")
        exchange.feed(b"two ")
        assert exchange.num_waiting == 8 + 2 * CHUNK_BYTES
        exchange.begin(app)  # type: ignore[arg-type]
        while exchange.num_waiting:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert connection.flow.num_resumed == 2
        exchange.feed(b"three")
        exchange.end_body()
        await asyncio.gather(*connection.tasks)

    run(scenario)
    assert [message.get("body") for message in seen] == [b"one two ", b"three", None]
    assert seen[-1] == {"type": "http.disconnect"}


def test_a_body_that_nobody_wanted_is_not_kept() -> None:
    """A kept-alive connection would hold it until its next request."""

    async def scenario(connection: Connection) -> None:
        body = bytes(1000)
        references = sys.getrefcount(body)
        exchange = connection.exchange()
        exchange.feed(body)
        assert sys.getrefcount(body) == references + 1
        await connection.answer(exchange, answers)
        assert sys.getrefcount(body) == references

    run(scenario)


def test_who_waits_for_a_body_is_told_that_the_client_left() -> None:
    """Else its task would wait for ever; and nothing is written to nobody."""
    seen: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        seen.append(await receive())
        await answers(scope, receive, send)

    async def scenario(connection: Connection) -> None:
        exchange = connection.exchange()
        exchange.begin(app)  # type: ignore[arg-type]
        while not connection.flow.num_resumed:
            await asyncio.sleep(0)
        exchange.disconnect()
        await asyncio.gather(*connection.tasks)
        assert connection.transport.pieces == []
        assert not exchange.response_complete

    run(scenario)
    assert seen == [{"type": "http.disconnect"}]


@pytest.mark.parametrize("asks", [True, False])
def test_a_client_that_waits_for_a_word_gets_it_when_its_body_is_wanted(asks: bool) -> None:
    """Once, and not when the application answers without the body."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if asks:
            await receive()
            await receive()
        await answers(scope, receive, send)

    async def scenario(connection: Connection) -> None:
        exchange = connection.exchange(expects_continue=True)
        exchange.begin(app)  # type: ignore[arg-type]
        for _ in range(3):
            await asyncio.sleep(0)
            exchange.feed(b"x")
        await asyncio.gather(*connection.tasks)
        pieces = connection.transport.pieces
        assert pieces[:-1] == [b"HTTP/1.1 100 Continue\r\n\r\n"] * asks

    run(scenario)


def test_an_answer_waits_for_a_client_that_does_not_read() -> None:
    """What is written meanwhile would pile up in memory."""

    async def scenario(connection: Connection) -> None:
        connection.flow.write_paused = True
        connection.exchange().begin(answers)  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        assert connection.transport.pieces == []
        connection.flow.drained.set()
        await asyncio.gather(*connection.tasks)
        assert len(connection.transport.pieces) == 1

    run(scenario)


def test_only_a_task_under_way_is_cancelled() -> None:
    """One that has not begun could say nothing to its client, and one that has ended has said it."""
    reached = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await receive()
        except asyncio.CancelledError:
            reached.append("cancelled")
            await answers(scope, receive, send)

    async def scenario(connection: Connection) -> None:
        exchange = connection.exchange()
        assert not exchange.cancel("a reason")
        exchange.begin(app)  # type: ignore[arg-type]
        assert not exchange.cancel("a reason")
        while not connection.flow.num_resumed:
            await asyncio.sleep(0)
        assert exchange.cancel("a reason")
        await asyncio.gather(*connection.tasks)
        assert not exchange.cancel("a reason")
        assert len(connection.transport.pieces) == 1

    run(scenario)
    assert reached == ["cancelled"]


async def expires(scope: Message, receive: Receive, send: Send) -> None:
    """An application that waits for a body for ten milliseconds."""
    now = time.monotonic()
    request = Request({"path": "/", "headers": [], **scope}, receive, now)
    with pytest.raises(Expired):
        await request.read(Limits(), now + 0.01)
    await answers(scope, receive, send)


@pytest.mark.parametrize(("seconds", "told"), [(4.9, 104.9), (5.0, None), (60.0, None)])
def test_only_a_deadline_before_the_limit_ends_the_wait_for_a_body(seconds: float, told: float | None) -> None:
    """At the limit itself two would end the request, and who comes first decides whose fault it was."""
    scope: Message = {"path": "/", "headers": [], "state": {}}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}"}

    request = Request(scope, receive, 100.0)
    assert asyncio.run(request.read(Limits(header_seconds=5.0), 100.0 + seconds)) == b"{}"
    assert scope["state"].get(BODY_DEADLINE) == told


@pytest.mark.parametrize("app", [answers, expires])
def test_a_request_leaves_no_circle_behind(app: App) -> None:
    """The server's collections are rare, and what only they could free would pile up."""

    class Scope(dict[str, Any]):
        """One that can be watched."""

    async def scenario(connection: Connection) -> None:
        scope = Scope(method="POST", state={})
        watched = weakref.ref(scope)
        exchange = Exchange(connection, scope, keep_alive=True, expects_continue=False)
        del scope
        exchange.feed(b"x")
        if app is answers:
            exchange.end_body()
        await connection.answer(exchange, app)
        del exchange
        await asyncio.sleep(0)
        assert watched() is None

    gc.disable()
    try:
        run(scenario)
    finally:
        gc.enable()
