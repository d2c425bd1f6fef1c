"""The generator against real sockets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.serving.connections import request_bytes
from benchmarks.serving.generate import Plan, run
from benchmarks.serving.outcomes import Summary
from benchmarks.serving.stub import ANSWER, Stub


@contextmanager
def serving(protocol: Callable[[], asyncio.Protocol]) -> Iterator[int]:
    """A server in a thread; gives its port."""
    loop = asyncio.new_event_loop()
    transports: list[asyncio.Transport] = []

    def watched() -> asyncio.Protocol:
        made = protocol()
        connect = made.connection_made

        def connection_made(transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transports.append(transport)
            connect(transport)

        made.connection_made = connection_made  # type: ignore[method-assign]
        return made

    server = loop.run_until_complete(loop.create_server(watched, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for _ in range(3):  # a connection may only now be accepted
            for transport in transports:
                transport.abort()
            loop.run_until_complete(asyncio.sleep(0.01))
        server.close()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()


class Scripted(asyncio.Protocol):
    """Answers the n-th request of a connection as a script says; None closes the connection."""

    def __init__(self, script: Callable[[int], list[bytes] | None]) -> None:
        self.script = script
        self.count = 0
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each complete request as the script says."""
        self.received += data
        while b'"}' in self.received:
            self.received = self.received.partition(b'"}')[2]
            self.count += 1
            parts = self.script(self.count)
            if parts is None:
                self.transport.close()
            else:
                self.transport.writelines(parts)


def generate(port: int, **options: object) -> Summary:
    plan = {
        "port": port, "path": "/", "bodies": ['{"text": "a"}'], "expected": ['"label":"stub"'], "rate": 200.0,
        "seconds": 0.5, "max_lag_ms": 1e3, "limit_seconds": 5.0, "patience_seconds": 20.0,
    }  # fmt: skip
    return run(Plan(**(plan | options))).summary  # type: ignore[arg-type]


def test_every_request_is_answered_over_few_connections() -> None:
    """What was sent comes back, recognised; a connection per request would measure how servers accept connections."""
    made = []

    def make() -> Stub:
        made.append(Stub(0, 0.0))
        return made[-1]

    with serving(make) as port:
        summary = generate(port, max_connections=8)
    assert len(made) <= 8
    assert summary.sent == summary.ok > 50
    assert summary.other_label == summary.failed == 0


def test_chunked_and_split_answers_are_put_together() -> None:
    """A peer that answers in pieces must not be counted as failed or wrong."""
    pieces = [
        b"HTTP/1.1 200 OK\r\nTransfer-Enc",
        b'oding: chunked\r\n\r\n8\r\n{"label"\r\n',
        b'9\r\n: "stub"}\r\n0\r\n\r\n',
    ]
    with serving(lambda: Scripted(lambda number: pieces)) as port:
        summary = generate(port)
    assert (summary.ok, summary.other_label) == (summary.sent, 0)


def test_a_connection_that_the_server_closed_between_requests_is_replaced() -> None:
    """Servers close idle connections; a request that crosses such a close on its way is no failure of the server."""
    with serving(lambda: Scripted(lambda number: [ANSWER] if number < 4 else None)) as port:
        summary = generate(port)
    assert summary.ok == summary.sent


def test_a_server_that_breaks_every_connection_fails_every_request() -> None:
    """Trying again for ever would turn a broken server into a slow one."""
    with serving(lambda: Scripted(lambda number: None)) as port:
        summary = generate(port)
    assert (summary.ok, summary.failed) == (0, summary.sent)


def test_statuses_are_told_apart() -> None:
    """A refusal counted as an answer would make goodput of it."""
    refusal = b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n"
    with serving(lambda: Scripted(lambda number: [refusal if number % 2 else ANSWER])) as port:
        summary = generate(port)
    assert summary.refused > 0
    assert summary.ok + summary.refused == summary.sent


def test_above_its_connections_requests_wait_in_the_client_and_count_from_their_time() -> None:
    """A cap on connections must not close the loop in silence."""

    def slow(number: int) -> list[bytes]:
        time.sleep(0.05)
        return [ANSWER]

    with serving(lambda: Scripted(slow)) as port:
        summary = generate(port, rate=100.0, seconds=0.3, max_connections=2, patience_seconds=0.5)
    assert summary.ok + summary.expired == summary.sent
    assert summary.expired > 0
    assert summary.latency.maximum is not None
    assert summary.latency.maximum > 300


def test_a_stall_of_a_real_server_is_seen() -> None:
    """The whole generator, sockets included: 200 ms once must show as 200 ms."""
    Stub.num_requests = 0
    with serving(lambda: Stub(40, 0.2)) as port:
        summary = generate(port, limit_seconds=0.05)
    assert summary.latency.maximum is not None
    assert summary.latency.maximum >= 190
    assert summary.within < summary.sent - 20


def test_a_request_is_written_as_http_wants_it() -> None:
    """A wrong length would leave both sides waiting."""
    written = request_bytes("/v1/predict", '{"text": "ü"}'.encode(), {"X-A": "1"})
    head, _, body = written.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /v1/predict HTTP/1.1"
    assert b"X-A: 1" in head
    assert b"Content-Length: 14" in head
    assert len(body) == 14
