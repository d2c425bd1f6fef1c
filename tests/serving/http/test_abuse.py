"""Hostile clients against a real server: whatever they send, the next honest request is answered."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable

import pytest

from serving.engine.dummy import DummyEngine
from serving.http.protocol_limits import MAX_HEAD_BYTES, MAX_PIPELINED
from serving.operations.settings import Limits
from tests.serving.http.conftest import RunningServer
from tests.serving.http.wire import BODY, PATIENT, is_reset_or_closed, post, read_all, read_answers, wait_for

patient = pytest.mark.parametrize("limits", [PATIENT], ids=["patient"])


@pytest.fixture
def engine() -> DummyEngine:
    """Answers with the number of words times the number of the label."""
    return DummyEngine()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"text": "\xff\xfe"}', 400),
        (b'{"text": "\\ud800"}', 400),
        (b'{"text": "\\udc00\\ud800"}', 400),
        (b"[" * 99_000, 400),
        (b'{"a":' * 19_000, 400),
        (b'{"text": ' + b"[" * 90_000 + b"]" * 9_000, 400),
        (b'{"text": "refund", "top_k": ' + b"9" * 90_000 + b"}", 422),
        (b'{"text": "refund", "top_k": -1e-99999}', 422),
        (b'{"text": NaN}', 400),
        (b'{"text": Infinity}', 400),
        (b'{"text": "a"}{"text": "b"}', 400),
        (b"\x00" * 1000, 400),
        (b'{"text": "\x00"}', 400),
        (b'{"text": "\\u0000"}', 200),
        (b'\xef\xbb\xbf{"text": "refund"}', 400),
        (b'{"text": "refund", "text": "\\u202e\xf0\x9f\x92\xa9"}', 200),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bodies_that_no_client_should_send(server: RunningServer, body: bytes, status: int) -> None:
    """Each has broken some server: by recursion, by decoding, or by answering 500."""
    with server.connect() as client:
        client.sendall(post(body))
        assert read_answers(client, 1)[0][0] == status


def test_a_body_that_ends_early_is_not_answered_as_whole(server: RunningServer, engine: DummyEngine) -> None:
    """Half a body may be valid JSON of another request."""
    with server.connect() as client:
        client.sendall(post(length=len(BODY) + 10))
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    assert engine.received == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
        b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\nabcde",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header: x\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=lambda value: repr(value)[:50],
)
def test_what_is_no_http_is_refused_and_closed(server: RunningServer, request_bytes: bytes) -> None:
    """A request that two servers in a row read differently smuggles another one in."""
    with server.connect() as client:
        client.sendall(request_bytes)
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1") == 1
    assert b'"code":"' in answer


def test_pipelined_requests_are_answered_in_order(server: RunningServer, engine: DummyEngine) -> None:
    """Answers that overtake each other belong to other texts."""
    engine.delay_seconds = 0.01
    with server.connect() as client:
        texts = [f"text {'x ' * number}" for number in range(1, 11)]
        client.sendall(b"".join(post(json.dumps({"text": text, "raw": True}).encode()) for text in texts))
        answers = read_answers(client, 10)
    assert [answer["logits"][0]["topic"][1] for _, answer in answers] == [float(number + 1) for number in range(1, 11)]


def test_a_connection_is_read_on_after_pipelined_requests_without_bodies(server: RunningServer) -> None:
    """While some wait, nothing more is read; one that nobody reads again hangs with all that is sent on it."""
    with server.connect() as client:
        for _ in range(2):
            client.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
            assert [status for status, _ in read_answers(client, 3)] == [200] * 3


def test_endless_pipelining_is_cut_off(server: RunningServer, engine: DummyEngine) -> None:
    """Requests that wait behind a slow one are memory that nobody has counted; as many as are allowed are answered."""
    engine.delay_seconds = 0.3
    with server.connect() as client:
        client.sendall(post() * (MAX_PIPELINED + 1))
        assert is_reset_or_closed(client)
    engine.delay_seconds = 0.005
    with server.connect() as client:
        client.sendall(post() * MAX_PIPELINED)
        assert {status for status, _ in read_answers(client, MAX_PIPELINED)} == {200}


@patient
def test_a_huge_head_is_refused(server: RunningServer) -> None:
    """The parser keeps what it has until the head is complete."""
    with server.connect() as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nx: ")
        time.sleep(0.1)
        client.sendall(b"y" * (MAX_HEAD_BYTES + 1))
        assert read_all(client).startswith(b"HTTP/1.1 431 ")


def test_a_body_of_nothing_but_chunk_sizes_is_cut_off(
    run_server: Callable[..., RunningServer], engine: DummyEngine
) -> None:
    """What stands around the bytes of a body counts in no limit on the body."""
    server = run_server(engine, Limits(header_seconds=3.0, body_bytes=1000))
    with server.connect() as client:
        client.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        time.sleep(0.05)
        with contextlib.suppress(ConnectionError):
            client.sendall(b"1;" + b"e" * 2 * MAX_HEAD_BYTES)
        assert is_reset_or_closed(client)


@pytest.mark.parametrize("garbage", [b"garbage\r\n\r\n", b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_what_is_no_http_is_no_answer_to_the_request_before_it(
    server: RunningServer, engine: DummyEngine, garbage: bytes
) -> None:
    """The client takes the first answer that comes for that of its first request."""
    engine.delay_seconds = 0.2
    with server.connect() as client:
        client.sendall(post() + garbage)
        assert is_reset_or_closed(client)


def test_a_body_that_is_too_large_is_told_so_at_once(server: RunningServer) -> None:
    """The client hears it before it has sent the rest, which is then read away for a while and not for ever."""
    with server.connect() as client:
        client.sendall(post(b"x" * 1000, length=10_000_000))
        assert read_answers(client, 1)[0][0] == 413
        with pytest.raises(ConnectionError):
            _send_for_seconds(client, 4)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/livez", 200),
        (b"/livez?a=/b%20c", 200),
        (b"/liv%65z", 200),
        (b"http://x/livez?a=b", 200),
        (b"/livez%00", 404),
        (b"/livez%ff", 404),
        (b"*", 404),
        (b"/liv\xc3\xa9z", 400),
    ],
)
def test_every_form_of_a_target_is_understood_or_refused(server: RunningServer, target: bytes, status: int) -> None:
    """Proxies send whole addresses, and some clients encode what need not be."""
    with server.connect() as client:
        client.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_answers(client, 1)[0][0] == status


def test_expect_continue_is_answered_by_the_refusal(server: RunningServer) -> None:
    """Curl asks before it sends a large body: a 100 here would invite it."""
    with server.connect() as client:
        client.sendall(post(b"", "/v1/predict", "expect: 100-continue", length=10_000_000))
        assert read_answers(client, 1)[0][0] == 413
    with server.connect() as client:
        client.sendall(post(b"", "/v1/predict", "expect: 100-continue", length=len(BODY)))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert read_answers(client, 1)[0][0] == 200


def test_clients_of_http_1_0_are_answered_and_left(server: RunningServer) -> None:
    """Also those that would stay: what keeps such a connection open is no part of that protocol."""
    with server.connect() as client:
        client.sendall(b"GET /livez HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer


def test_head_requests_have_a_head_and_no_body(server: RunningServer) -> None:
    """What stood after the head would be taken for the next answer."""
    with server.connect() as client:
        client.sendall(b"HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(65_536).endswith(b"\r\n\r\n")
        client.sendall(b"HEAD /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 200 ")


def test_an_answer_leaves_in_one_piece(server: RunningServer) -> None:
    """Two packets wake every client twice, and cost the server a call of the kernel per request."""
    with server.connect() as client:
        for _ in range(20):
            client.sendall(post())
            head, _, body = client.recv(65_536).partition(b"\r\n\r\n")
            assert f"content-length: {len(body)}".encode() in head


def test_an_upgrade_that_is_not_offered_is_ignored(server: RunningServer) -> None:
    """Java's client asks for HTTP/2 with its first request, and expects its answer anyway."""
    upgrade = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAA")
    with server.connect() as client:
        client.sendall(post(BODY, "/v1/predict", *upgrade))
        assert read_answers(client, 1)[0][0] == 200


@patient
@pytest.mark.parametrize("name", [b"upgrade", b"Upgrade", b"UPGRADE", b"uPgRaDe"])
def test_an_upgrade_that_comes_in_pieces_is_ignored_too(server: RunningServer, name: bytes) -> None:
    """Wherever its line is cut; a client that sends its head line by line would be told that its body is empty."""
    line = b"\r\n" + name + b": h2c"
    before, _, after = post(BODY, "/v1/predict", "connection: Upgrade", line.decode().strip()).partition(line)
    cuts = range(len(line) + 1)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in cuts]
        for cut, client in zip(cuts, clients, strict=True):
            client.sendall(before + line[:cut])
        time.sleep(0.1)
        for cut, client in zip(cuts, clients, strict=True):
            client.sendall(line[cut:] + after)
        assert [read_answers(client, 1)[0][0] for client in clients] == [200] * len(clients)


@patient
def test_what_looks_like_an_upgrade_at_a_cut_is_kept_whole(server: RunningServer) -> None:
    """Bytes that wait for the rest of a name are given to the parser with it, whatever it turns out to be."""
    with server.connect() as client:
        for piece in (b"POST /v1/predict HTTP/1.1\r\nhost: x\r\nu", b"p", b"set: 1\r\ncontent-le"):
            client.sendall(piece)
            time.sleep(0.05)
        client.sendall(b"ngth: %d\r\n\r\n" % len(BODY) + BODY)
        assert read_answers(client, 1)[0][0] == 200


@pytest.mark.parametrize("end", [b"u", b"Up", b"upgrade"])
def test_a_body_that_ends_like_an_upgrade_is_read_to_its_end(server: RunningServer, end: bytes) -> None:
    """Taken for a header that was cut, its last bytes would be waited for until the time is over."""
    with server.connect() as client:
        client.sendall(post(BODY + b"\r\n" + end))
        assert read_answers(client, 1)[0][0] == 400
        client.sendall(post(length=len(BODY) + 3) + b"\r\n" + end[:1])
        assert read_answers(client, 1)[0][0] == 400


def test_what_the_parser_refuses_is_in_the_metrics(server: RunningServer) -> None:
    """An attack that no graph shows is found when customers call."""
    with server.connect() as client:
        client.sendall(b"no HTTP at all\r\n\r\n")
        assert b" 400 " in read_all(client)[:20]
    with server.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        figures = read_all(client)
    assert b'compressor_refused_total{reason="invalid_http"} 1.0' in figures
    assert b'compressor_requests_total{route="other",status="400"} 1.0' in figures


@patient
def test_many_requests_are_no_huge_head(server: RunningServer) -> None:
    """Counted together, the requests of a busy connection would be refused after some seconds."""
    with server.connect() as client:
        for _ in range(3):
            client.sendall(post(json.dumps({"text": "x" * (MAX_HEAD_BYTES // 3)}).encode()))
            assert read_answers(client, 1)[0][0] == 200
        client.sendall(post()[:20])
        time.sleep(0.1)
        client.sendall(post()[20:])
        assert read_answers(client, 1)[0][0] == 200


def test_a_client_that_leaves_cancels_its_work(
    server: RunningServer, engine: DummyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Computed for nobody, the answers of half of the clients cost the other half theirs; and it is no error."""
    engine.delay_seconds = 30.0
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        client.sendall(post() * 2)  # the second one waits behind the first
    wait_for(lambda: len(engine.received) == 5)
    for client in clients:
        client.close()
    wait_for(lambda: engine.cancelled == 5)
    wait_for(lambda: not server.server.server_state.tasks)
    assert len(engine.received) == 5
    assert [record.getMessage() for record in caplog.records] == []


@patient
def test_one_connection_too_many_is_told_so(server: RunningServer) -> None:
    """Left in the queue of the kernel it would wait without an answer."""
    held = [server.connect() for _ in range(PATIENT.connections)]
    try:
        wait_for(lambda: len(server.server.server_state.connections) == PATIENT.connections)
        with server.connect() as client:
            client.sendall(post())
            answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 1" in answer
        assert b"connection: close" in answer
        held[-1].sendall(post())
        assert read_answers(held[-1], 1)[0][0] == 200, "the last one that is allowed"
    finally:
        for client in held:
            client.close()
    wait_for(lambda: not server.server.server_state.connections)


def test_a_client_that_does_not_read_its_answers_is_closed(server: RunningServer, engine: DummyEngine) -> None:
    """Answers that nobody takes stay in memory."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.settimeout(1)
        big = json.dumps({"text": ["x"] * 1000}).encode()
        for _ in range(60):
            try:
                client.sendall(post(big))
            except (ConnectionError, TimeoutError):
                break
            time.sleep(0.05)
        wait_for(lambda: not server.server.server_state.connections)


def _send_for_seconds(client: socket.socket, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client.sendall(b"x" * 10_000)
        time.sleep(0.005)
