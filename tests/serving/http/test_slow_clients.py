"""Slow and silent clients against a real server: none of them keeps a place for ever, and none is cut off too early."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from serving.engine.dummy import DummyEngine
from serving.http import protocol_limits
from serving.http.limits import DEADLINE_HEADER
from serving.operations.settings import Limits
from tests.serving.http.conftest import RunningServer
from tests.serving.http.wire import BODY, PATIENT, QUICK, post, read_all, read_answers, wait_for

UNHURRIED = Limits(header_seconds=2.0, connections=20, body_bytes=100_000)
DEADLINE = DEADLINE_HEADER.decode()
LONGER_SECONDS = 2.5
"""Than those limits."""
patient = pytest.mark.parametrize("limits", [PATIENT], ids=["patient"])
unhurried = pytest.mark.parametrize("limits", [UNHURRIED], ids=["unhurried"])


@pytest.fixture
def engine() -> DummyEngine:
    """Answers with the number of words times the number of the label."""
    return DummyEngine()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are looked at fifty times a second."""
    monkeypatch.setattr(protocol_limits, "SWEEP_SECONDS", 0.02)


def test_a_slow_head_is_cut_off_and_told_why(server: RunningServer) -> None:
    """Slowloris: a thousand connections that send a letter a second each hold the server for nothing."""
    with server.connect() as client:
        start = time.monotonic()
        for letter in post()[:40]:
            try:
                client.sendall(bytes([letter]))
            except ConnectionError:
                break
            if time.monotonic() - start > 3:
                break
            time.sleep(0.03)
        assert 0.3 < time.monotonic() - start < 2.5
        assert b"408" in read_all(client)[:20]


def test_a_slow_body_is_cut_off_and_told_why(server: RunningServer, engine: DummyEngine) -> None:
    """The same after an honest head; the time counts from the head's first byte."""
    with server.connect() as client:
        start = time.monotonic()
        client.sendall(post(b'{"te', length=1000))
        answer = read_all(client)
        assert 0.3 < time.monotonic() - start < 2.5
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer
    assert engine.received == []


@pytest.mark.parametrize(
    ("path", "form"), [("/predict", b'"error_type":"Validation"'), ("/v2/models/dummy/infer", b'{"error":"')]
)
def test_a_slow_body_is_told_why_in_the_words_of_its_protocol(server: RunningServer, path: str, form: bytes) -> None:
    """Clients of other servers' protocols read their own form of errors alone."""
    with server.connect() as client:
        client.sendall(post(b'{"te', path, length=1000))
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert form in answer


@patient
@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v1/predict", b'"code":"deadline_expired"'),
        ("/predict", b'"error_type":"Overloaded"'),
        ("/v2/models/dummy/infer", b'{"error":"the deadline'),
    ],
)
def test_a_body_is_waited_for_until_the_deadline(
    server: RunningServer, engine: DummyEngine, path: str, form: bytes
) -> None:
    """Who asked for an answer within 0.2 seconds is told then, not after the thirty that a request may take to come."""
    with server.connect() as client:
        start = time.monotonic()
        client.sendall(post(b'{"te', path, f"{DEADLINE}: 200", length=1000))
        answer = client.recv(65_536)
        assert time.monotonic() - start > 0.15
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert form in answer
        assert engine.received == []


@patient
def test_a_body_that_comes_after_its_answer_is_read_away(server: RunningServer) -> None:
    """It is no request, and the connection goes on with the next one."""
    with server.connect() as client:
        client.sendall(post(BODY[:4], "/v1/predict", f"{DEADLINE}: 50", length=len(BODY)))
        assert read_answers(client, 1)[0][0] == 504
        client.sendall(BODY[4:] + post())
        assert read_answers(client, 1)[0][0] == 200


@patient
def test_a_body_in_pieces_before_the_deadline_is_answered(server: RunningServer) -> None:
    """A timer that outlived its wait would end the request, or the next one."""
    with server.connect() as client:
        for _ in range(2):
            client.sendall(post(BODY[:1], "/v1/predict", f"{DEADLINE}: 5000", length=len(BODY)))
            for place in range(1, len(BODY)):
                time.sleep(0.01)
                client.sendall(BODY[place : place + 1])
            assert read_answers(client, 1)[0][0] == 200


@patient
def test_a_body_in_pieces_has_one_deadline(server: RunningServer) -> None:
    """A client that sends a byte now and then would else hold its request for as long as it likes."""
    with server.connect() as client:
        client.sendall(post(b"{", "/v1/predict", f"{DEADLINE}: 300", length=1000))
        client.settimeout(0.05)
        answer = b""
        for _ in range(90):
            try:
                answer = client.recv(65_536)
                break
            except TimeoutError:
                client.sendall(b" ")
        assert answer.startswith(b"HTTP/1.1 504 ")


def test_the_time_for_a_request_to_come_counts_where_no_deadline_is_earlier(
    run_server: Callable[..., RunningServer], engine: DummyEngine
) -> None:
    """A slow client that named no deadline is told that it was slow, not that the server was."""
    server = run_server(engine, QUICK, default_deadline_ms=400)
    with server.connect() as client:
        client.sendall(post(b'{"te', length=1000))
        assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_a_body_may_come_late_where_it_may_bring_a_longer_deadline(
    run_server: Callable[..., RunningServer], engine: DummyEngine
) -> None:
    """The Open Inference Protocol names it in the body: until that is there, the default does not count."""
    server = run_server(engine, PATIENT, default_deadline_ms=100)
    asked = {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["refund"]}],
        "parameters": {"timeout": 20_000_000},
    }
    body = json.dumps(asked).encode()
    with server.connect() as client:
        client.sendall(post(body[:9], "/v2/models/dummy/infer", length=len(body)))
        time.sleep(0.4)
        client.sendall(body[9:])
        assert read_answers(client, 1)[0][0] == 200


def test_a_slow_body_behind_an_answer_is_told_why_too(server: RunningServer) -> None:
    """Mistaken for the request before it, which is answered, it would be cut off without a word."""
    with server.connect() as client:
        client.sendall(post() + post(b'{"te', length=1000))
        assert read_answers(client, 1)[0][0] == 200
        assert read_all(client).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("first", "drip"),
    [(b"", b""), (b"", b"\r\n"), (post(), b"\r\n")],
    ids=["silence", "blank lines", "blank lines after an answer"],
)
def test_a_connection_that_asks_nothing_is_closed(server: RunningServer, first: bytes, drip: bytes) -> None:
    """Neither silence nor blank lines may keep a place, on a new connection or on one that was answered."""
    with server.connect() as client:
        client.sendall(first)
        read_answers(client, 1 if first else 0)
        start = time.monotonic()
        client.settimeout(0.05)
        while time.monotonic() - start < 3:
            try:
                client.sendall(drip)
                if client.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 0.3 < time.monotonic() - start < 2.5


def test_a_slow_answer_is_no_slow_request(server: RunningServer, engine: DummyEngine) -> None:
    """The limits are the client's; the model's time has its own, also where the connection was idle before."""
    with server.connect() as client:
        client.sendall(post())
        assert read_answers(client, 1)[0][0] == 200
        engine.delay_seconds = 1.0
        client.sendall(post())
        assert read_answers(client, 1)[0][0] == 200


@unhurried
@pytest.mark.parametrize("sent", [20, len(post()) - 3], ids=["half a head", "half a body"])
def test_half_a_request_behind_a_slow_answer_loses_neither(
    server: RunningServer, engine: DummyEngine, sent: int, often: None
) -> None:
    """The second one's time begins when the first one is answered: closing for it earlier would lose the first."""
    engine.delay_seconds = LONGER_SECONDS
    with server.connect() as client:
        client.sendall(post() + post()[:sent])
        assert read_answers(client, 1)[0][0] == 200
        engine.delay_seconds = 0.0
        time.sleep(0.1)
        client.sendall(post()[sent:])
        assert read_answers(client, 1)[0][0] == 200


def test_connections_are_watched_again_after_a_moment_without_any(
    run_server: Callable[..., RunningServer], engine: DummyEngine, often: None
) -> None:
    """The watch ends with the last connection: without a new one, no limit would hold from the first quiet night on."""
    server = run_server(engine, QUICK)
    with server.connect() as client:
        client.sendall(post())
        read_answers(client, 1)
    wait_for(lambda: not server.server.server_state.connections)
    time.sleep(0.1)
    with server.connect() as client:
        client.sendall(b"GET /livez HTT")
        assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_a_silent_connection_too_many_is_closed_early(
    run_server: Callable[..., RunningServer], engine: DummyEngine, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As patient as with the others, the server would hold two times as many connections as it may."""
    monkeypatch.setattr(protocol_limits, "REFUSED_SECONDS", 0.1)
    server = run_server(engine, Limits(connections=1, header_seconds=60.0))
    with server.connect() as held, server.connect() as client:
        assert read_all(client) == b""
        held.sendall(post())
        assert read_answers(held, 1)[0][0] == 200


@unhurried
def test_a_client_that_reads_late_is_no_client_that_does_not_read(server: RunningServer, often: None) -> None:
    """A moment's pause long ago would else end the connection, under a request that has just been sent."""
    connections: Any = server.server.server_state.connections
    server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # the kernel is to hold little
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        client.connect(("127.0.0.1", server.port))
        client.settimeout(5)
        number = 0
        while not any(connection.flow.write_paused for connection in connections):
            client.sendall(post(json.dumps({"text": ["x"] * 1000}).encode()))
            number += 1
            time.sleep(0.01)
        read_answers(client, number)
        start = time.monotonic()
        while time.monotonic() - start < LONGER_SECONDS:
            client.sendall(post())
            assert read_answers(client, 1)[0][0] == 200
            time.sleep(0.05)
