"""The fast path: it answers as the ordinary way does, takes only the plain case, and loses nobody."""

from __future__ import annotations

import asyncio
import gc
import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.bundle import Bundle
from serving.engine.contract import Expired, LaneFailed, NotReady, Overloaded, TooLate
from serving.engine.dummy import DUMMY_TASK, DummyEngine, dummy_bundle
from serving.errors import UserError
from serving.http import answering, fast_path, protocol_limits
from serving.http.app import create_app
from serving.http.fast_path import (
    KNOWN_HEADS,
    LONGEST_HEAD_BYTES,
    PAUSE_SECONDS,
    SMALL_BODY_BYTES,
    FastExchange,
    FastPath,
)
from serving.http.keys import KeyRing
from serving.http.metrics import Metrics
from serving.http.request import Request
from serving.operations.settings import Limits, ServerSettings
from tests.serving.http.conftest import Answer, RunningServer
from tests.serving.http.wire import BODY, PATIENT, post, read_answers, wait_for

Run = Callable[..., RunningServer]
OWN = {"date", "server-timing", "x-request-id"}
"""Headers that differ from answer to answer."""


@pytest.fixture
def pair(run_server: Run, bundle: Bundle) -> Iterator[tuple[Asker, Asker]]:
    """Two servers over engines of their own: with the fast path, its head learnt, and without."""
    askers = [Asker(run_server(DummyEngine(bundle), PATIENT, fast_path=on)) for on in (True, False)]
    for asker in askers:
        asker.ask(BODY)
    yield askers[0], askers[1]
    for asker in askers:
        asker.client.close()


class Asker:
    """A client that keeps its connection, and the server it asks."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.client = server.connect()

    @property
    def num_fast(self) -> int:
        """Requests that took the fast path so far."""
        number: int = self.server.app._metrics.fast_requests
        return number

    def ask(self, body: bytes = BODY, *head: str) -> Answer:
        """One request, and its answer."""
        self.client.sendall(post(body, "/v1/predict", *head))
        return self.read()

    def read(self) -> Answer:
        """The next answer, which must be all that has come."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        while len(body) < int(headers["content-length"]):
            body += self._receive()
        assert len(body) == int(headers["content-length"])
        return Answer(int(status.split()[1]), headers, body)

    def _receive(self) -> bytes:
        chunk = self.client.recv(65_536)
        assert chunk, "the server closed"
        return chunk


def _is_like(one: Answer, other: Answer) -> bool:
    """Whether two answers are equal, but for what each has of its own; their headers in the same order."""
    names = list(one.headers)
    same = {name: one.headers[name] for name in names if name not in OWN}
    return (one.status, one.body, names) == (other.status, other.body, list(other.headers)) and same == {
        name: other.headers[name] for name in names if name not in OWN
    }


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        b'{"text": "refund broken thanks please"}',
        b'{"text": ["refund"]}',
        b'{"text": ["refund", "broken thanks", "please", "refund"]}',
        b'{"text": "refund", "tasks": ["intent"], "top_k": 2, "raw": true}',
        b' {"tasks": null, "text": "\\u0000", "top_k": 1.0} ',
    ],
)
def test_an_answer_is_the_ordinary_one(pair: tuple[Asker, Asker], body: bytes) -> None:
    """In every byte but those of time and id: nobody may see which way a request took."""
    fast, ordinary = pair
    assert _is_like(fast.ask(body), ordinary.ask(body))
    assert (fast.num_fast, ordinary.num_fast) == (1, 0)


@pytest.mark.parametrize(
    ("body", "status", "is_fast"),
    [
        (b'{"text": ""}', 422, True),
        (b'{"text": "refund", "tasks": ["tone"]}', 422, True),
        (b'{"text": "refund", "top_k": 0}', 422, False),
        (b'{"text": "refund", "more": 1}', 422, False),
        (b'{"text": "refund"', 400, False),
        (b'{"text": "\xff"}', 400, False),
        (b'{"text": ' + b"[" * 40 + b"]" * 40 + b"}", 400, False),
        (b'{"text": [["a", "b"]]}', 422, True),
        (b'{"text": []}', 422, False),
        (json.dumps({"text": "x" * 40_000}).encode(), 413, False),
        (json.dumps({"text": "x" * 200_000}).encode(), 413, False),
        (json.dumps({"text": ["refund"] * 5}).encode(), 200, False),
        (json.dumps({"text": ["refund"] * 2000}).encode(), 413, False),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_wrong_or_large_is_told_as_ordinarily(
    pair: tuple[Asker, Asker], body: bytes, status: int, is_fast: bool
) -> None:
    """A known head says nothing about the body behind it."""
    fast, ordinary = pair
    told = fast.ask(body)
    assert told.status == status
    assert _is_like(told, ordinary.ask(body))
    assert fast.num_fast == is_fast
    if told.headers.get("connection") != "close":
        assert fast.ask().status == 200
        assert fast.num_fast == is_fast + 1


@pytest.mark.parametrize(
    "failure",
    [
        Overloaded(2.5),
        Expired("too late"),
        TooLate("at the door"),
        NotReady("draining"),
        LaneFailed("the model failed on text 0"),
        UserError("text 0 is wrong"),
        ZeroDivisionError("inside"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failure_is_told_as_ordinarily(pair: tuple[Asker, Asker], failure: Exception) -> None:
    """Status, code and headers are what clients and load balancers act on."""
    fast, ordinary = pair
    answers = []
    for asker in pair:
        engine: Any = asker.server.engine
        engine.failure = lambda number, work: failure
        answers.append(asker.ask())
    assert answers[0].status >= 400
    assert _is_like(*answers)
    assert fast.num_fast == 1
    assert _samples(fast) == _samples(ordinary)


def _samples(asker: Asker) -> dict[str, float]:
    """Counted requests and refusals."""
    lines = asker.server.app._metrics.render().decode().splitlines()
    counted = ("compressor_requests_total", "compressor_refused_total", "compressor_request_seconds_count")
    return {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line.startswith(counted)}


def test_a_bug_while_answering_is_a_500_and_not_a_silence(
    pair: tuple[Asker, Asker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine has nobody to raise to: a client would wait until its deadline, and longer."""
    fast, _ = pair

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fast.server.app.fast_path.native, "reply_to", fail)
    answer = fast.ask()
    assert (answer.status, answer.json["error"]["code"]) == (500, "internal_error")
    assert fast.num_fast == 1


def test_the_body_may_be_of_another_length_each_time(run_server: Run) -> None:
    """Else every length of text would have to be learnt."""
    asker = Asker(run_server(DummyEngine(), PATIENT))
    for number in range(1, 30):
        answer = asker.ask(json.dumps({"text": "refund " * number}).encode())
        assert answer.headers["content-length"] == str(len(answer.body))
        assert answer.status == 200
    assert asker.num_fast == 28
    asker.client.close()


def test_another_client_with_the_same_head_is_known_too(pair: tuple[Asker, Asker]) -> None:
    """A connection's first request would otherwise always be a slow one."""
    fast, _ = pair
    other = Asker(fast.server)
    assert other.ask().status == 200
    assert fast.num_fast == 1
    other.client.close()


@pytest.mark.parametrize(
    "head",
    [
        "authorization: Bearer secret",
        "Cookie: a=b",
        "x-api-key: secret",
        "X-Amz-Security-Token: secret",
        "x-forwarded-access-token: secret",
        "expect: 100-continue",
        "upgrade: h2c",
        "x-long: " + "a" * LONGEST_HEAD_BYTES,
        "x-folded: a\r\n b",
    ],
)
def test_some_heads_are_never_known(run_server: Run, head: str) -> None:
    """Secrets would stay in memory; the others ask for more than an answer, or could be read in two ways."""
    asker = Asker(run_server(DummyEngine(), PATIENT))
    for _ in range(3):
        asker.client.sendall(post(BODY, "/v1/predict", head))
        if head.startswith("expect"):
            assert asker.client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert asker.read().status in (200, 400)
        if head.startswith("x-folded"):
            break  # refused by the parser, which ends the connection
    assert asker.num_fast == 0
    assert not asker.server.app.fast_path._heads
    asker.client.close()


@pytest.mark.parametrize(
    "data",
    [
        post().replace(b"HTTP/1.1", b"HTTP/1.0"),
        post().replace(b"/v1/predict", b"/v1/predict?a=b"),
        post().replace(b"/v1/predict", b"/v1/%70redict"),
        post().replace(b"/v1/predict", b"http://x/v1/predict"),
        post(b"12\r\n%b\r\n0\r\n\r\n" % BODY, length=0).replace(b"content-length: 0", b"transfer-encoding: chunked"),
        post(BODY, "/v1/predict", "connection: close"),
    ],
    ids=["http/1.0", "query", "escaped", "absolute", "chunked", "close"],
)  # fmt: skip
def test_other_ways_to_ask_stay_ordinary(run_server: Run, data: bytes) -> None:
    """Each is answered; none of them is learnt."""
    asker = Asker(run_server(DummyEngine(), PATIENT))
    for _ in range(3):
        asker.client.close()
        asker.client = asker.server.connect()
        asker.client.sendall(data)
        assert asker.read().status == 200
    assert asker.num_fast == 0
    asker.client.close()


@pytest.mark.parametrize(
    ("head", "parsed"),
    [
        (b"POST /v1/predict HTTP/1.1\nhost: x\ncontent-length: 5\n\n..\r\n\r\n", [(b"host", b"x")]),
        (b"POST /v1/predict HTTP/1.1\r\nhost: x\ny: 1\r\ncontent-length: 5\r\n\r\n", [(b"host", b"x\ny: 1")]),
        (b"POST /v1/predict HTTP/1.1\r\nhost: x\rz\r\ncontent-length: 5\r\n\r\n", [(b"host", b"x\rz")]),
        (b"POST /v1/predict HTTP/1.1\r\nhost: x\r\n y\r\ncontent-length: 5\r\n\r\n", [(b"host", b"x y")]),
        (b"POST /v1/predict HTTP/1.1\r\nhost: y\r\ncontent-length: 5\r\n\r\n", [(b"host", b"x")]),
        (b"POST /v1/predict HTTP/1.1\r\nhost: x\r\nhost: y\r\ncontent-length: 5\r\n\r\n", [(b"host", b"x")]),
        (b"\r\nPOST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n", [(b"host", b"x")]),
        (b"PUT /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n", [(b"host", b"x")]),
        (b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n", [(b"host", b"x")]),
    ],
)  # fmt: skip
def test_a_head_that_could_be_read_in_two_ways_is_not_learnt(head: bytes, parsed: list[tuple[bytes, bytes]]) -> None:
    """A proxy before us may read it in the other one: that is how requests are smuggled."""
    path = _path()
    plain = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n"
    for data, read in ((head, [*parsed, (b"content-length", b"5")]), (plain, parsed)):
        path.learn(data, read, Request({"path": "", "headers": read}, _never, 0.0))
        assert not path._heads
    read = [(b"host", b"x"), (b"content-length", b"5")]
    path.learn(plain, read, Request({"path": "", "headers": read}, _never, 0.0))
    assert len(path._heads) == 1


def test_two_lengths_are_not_learnt() -> None:
    """Whichever the parser took, the other reading is a smuggled request."""
    path = _path()
    read = [(b"content-length", b"5"), (b"content-length", b"6")]
    head = b"POST /v1/predict HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n"
    path.learn(head, read, Request({"path": "", "headers": read}, _never, 0.0))
    assert not path._heads


async def _never() -> Any:
    raise AssertionError("nothing is received")


def _path(**settings: Any) -> FastPath:
    path = create_app(DummyEngine(), ServerSettings(**settings)).fast_path
    assert path is not None
    return path


def _learn(path: FastPath, number: int, started: float = 0.0) -> None:
    read = [(b"x-id", b"%d" % number), (b"content-length", b"5")]
    lines = b"".join(b"%b: %b\r\n" % pair for pair in read)
    head = b"POST /v1/predict HTTP/1.1\r\n" + lines + b"\r\n"
    path.learn(head, read, Request({"path": "", "headers": read}, _never, started))


def test_clients_whose_heads_never_come_again_do_not_fill_the_memory() -> None:
    """An id of its own in each head: learning them is work for nothing, and rests for a while."""
    path = _path()
    for number in range(KNOWN_HEADS):
        _learn(path, number)
    assert len(path._heads) == KNOWN_HEADS
    known = set(path._heads)
    for number in range(KNOWN_HEADS, 3 * KNOWN_HEADS):
        _learn(path, number)
        assert set(path._heads) == known, "some of them may come again"
    for number in range(KNOWN_HEADS):
        _learn(path, 3 * KNOWN_HEADS + number, started=PAUSE_SECONDS)
        assert len(path._heads) == number + 1
    _learn(path, 0, started=PAUSE_SECONDS)
    assert len(path._heads) == KNOWN_HEADS, "it rests again"


def test_where_heads_come_again_learning_goes_on() -> None:
    """Clients of years ago make room for those of today."""
    path = _path()
    for number in range(KNOWN_HEADS):
        _learn(path, number)
    path.metrics.fast_requests += KNOWN_HEADS
    _learn(path, KNOWN_HEADS)
    assert len(path._heads) == 1


def test_a_head_that_is_known_is_not_learnt_again() -> None:
    """Its larger requests take the ordinary way: each of them would make room for what is there already."""
    path = _path()
    for number in range(KNOWN_HEADS):
        _learn(path, number)
    for number in range(KNOWN_HEADS):
        _learn(path, number)
    assert len(path._heads) == KNOWN_HEADS


def test_a_deadline_and_an_id_of_the_head_hold(run_server: Run) -> None:
    """They are of the head, so that they are known with it."""
    engine = DummyEngine()
    asker = Asker(run_server(engine, PATIENT, max_deadline_ms=20_000))
    head = ("x-request-timeout-ms: 15000", "x-request-id: mine")
    for number in range(3):
        before = time.monotonic()
        assert asker.ask(BODY, *head).headers["x-request-id"] == "mine"
        assert asker.num_fast == number
        assert 15.0 <= engine.received[-1].deadline - before < 17.0
    assert asker.ask(BODY, "x-request-timeout-ms: 999999").status == 200
    assert asker.ask(BODY, "x-request-timeout-ms: 999999").status == 200
    assert 20.0 <= engine.received[-1].deadline - before < 25.0
    assert asker.num_fast == 3
    asker.client.close()


def test_an_id_that_is_none_is_replaced_each_time(run_server: Run) -> None:
    """Two requests of one id are one in every log."""
    asker = Asker(run_server(DummyEngine(), PATIENT))
    ids = {asker.ask(BODY, "x-request-id: not an id").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert asker.num_fast == 2
    asker.client.close()


@pytest.mark.parametrize("cut", [10, 60, len(post()) - 5])
def test_a_request_in_two_parts_is_answered_ordinarily(pair: tuple[Asker, Asker], cut: int) -> None:
    """The second part must not be taken for a request of its own."""
    fast, _ = pair
    for part in (post()[:cut], post()[cut:]):
        fast.client.sendall(part)
        time.sleep(0.1)
    assert fast.read().status == 200
    assert fast.num_fast == 0
    assert fast.ask().status == 200
    assert fast.num_fast == 1


def _send_apart(client: socket.socket, request: bytes, *cuts: int) -> None:
    """In several packets, one right behind the other."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start, end in itertools.pairwise([0, *cuts, len(request)]):
        client.sendall(request[start:end])
        time.sleep(0.001)


@pytest.fixture
def patient_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no busy machine is too slow for it."""
    monkeypatch.setattr(protocol_limits, "HOLD_SECONDS", 3.0)


@pytest.mark.usefixtures("patient_hold")
@pytest.mark.parametrize("cuts", [(-len(BODY),), (-len(BODY), -3), (-2, -1)])
def test_a_body_that_comes_right_behind_its_head_is_waited_for(
    pair: tuple[Asker, Asker], cuts: tuple[int, ...]
) -> None:
    """The most common clients of Python send head and body apart."""
    fast, ordinary = pair
    for number in (1, 2):
        for asker in pair:
            _send_apart(asker.client, post(), *(len(post()) + cut for cut in cuts))
        assert _is_like(fast.read(), ordinary.read())
        assert fast.num_fast == number


@pytest.mark.usefixtures("patient_hold")
def test_a_client_that_keeps_its_connection_takes_the_fast_path(run_server: Run) -> None:
    """With the standard library's own client."""
    server = run_server(DummyEngine(), PATIENT)
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    for _ in range(5):
        client.request("POST", "/v1/predict", BODY, {"content-type": "application/json"})
        assert json.loads(client.getresponse().read())["answers"]
    assert server.app._metrics.fast_requests == 4
    client.close()


@pytest.mark.usefixtures("patient_hold")
def test_what_is_more_than_the_body_is_the_next_request(pair: tuple[Asker, Asker]) -> None:
    """Held or not, bytes are read once and in their order."""
    fast, _ = pair
    cut = len(post()) - len(BODY)
    _send_apart(fast.client, post() + post(b'{"text": "refund refund"}'), cut)
    assert [status for status, _ in read_answers(fast.client, 2)] == [200, 200]
    assert fast.num_fast == 0
    assert fast.ask().status == 200


def test_a_body_that_does_not_come_ends_as_ordinarily(run_server: Run) -> None:
    """After a moment nothing is held any more: the limits of time are those of every request."""
    engine = DummyEngine()
    head = post()[: -len(BODY)]
    server = run_server(engine, Limits(header_seconds=0.5))
    for path_is_on in (False, True):
        asker = Asker(server)
        asker.ask() if path_is_on else None
        start = time.monotonic()
        asker.client.sendall(head)
        answer = asker.read()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert 0.4 < time.monotonic() - start < 3.0
        asker.client.close()
    assert len(engine.received) == 1


@pytest.mark.usefixtures("patient_hold")
def test_an_end_while_a_body_is_waited_for_waits_for_it_too(run_server: Run) -> None:
    """As for any request that has begun."""
    asker = Asker(run_server(DummyEngine(), PATIENT))
    asker.ask()
    connection: Any = next(iter(asker.server.server.server_state.connections))
    asker.client.sendall(post()[: -len(BODY)])
    wait_for(lambda: connection._begun is not None)
    connection.loop.call_soon_threadsafe(connection.shutdown)
    wait_for(lambda: connection._begun is None)
    asker.client.sendall(BODY)
    answer = asker.read()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert asker.num_fast == 0
    asker.client.close()


@pytest.mark.usefixtures("patient_hold")
def test_a_client_that_leaves_between_head_and_body_leaves_nothing(pair: tuple[Asker, Asker]) -> None:
    """Neither a timer nor a request."""
    fast, _ = pair
    connection: Any = next(iter(fast.server.server.server_state.connections))
    fast.client.sendall(post()[: -len(BODY)])
    wait_for(lambda: connection._begun is not None)
    fast.client.close()
    wait_for(lambda: not fast.server.server.server_state.connections)
    assert connection._begun is None
    assert fast.num_fast == 0
    assert _samples(fast)['compressor_requests_total{route="/v1/predict",status="499"}'] == 1


@pytest.mark.parametrize("hold_seconds", [protocol_limits.HOLD_SECONDS, 3.0], ids=["shorter", "longer"])
def test_a_deadline_is_kept_while_the_body_is_on_its_way(
    run_server: Run, monkeypatch: pytest.MonkeyPatch, hold_seconds: float
) -> None:
    """Whether the body is waited for beyond it or not: the ordinary way says so, and counts from the head."""
    monkeypatch.setattr(protocol_limits, "HOLD_SECONDS", hold_seconds)
    wish = "x-request-timeout-ms: 200"
    asker = Asker(run_server(DummyEngine(), PATIENT))
    asker.ask(BODY, wish)
    start = time.monotonic()
    asker.client.sendall(post(BODY, "/v1/predict", wish)[: -len(BODY)])
    answer = asker.read()
    assert (answer.status, "body" in answer.json["error"]["message"]) == (504, True)
    assert 0.15 < time.monotonic() - start < 1.0
    asker.client.close()


def test_a_request_in_the_body_of_another_is_a_body(pair: tuple[Asker, Asker]) -> None:
    """It comes alone in a packet, and looks like one whose head is known."""
    fast, _ = pair
    fast.client.sendall(post(b"", length=len(post())))
    time.sleep(0.1)
    fast.client.sendall(post())
    assert fast.read().status == 400
    assert fast.num_fast == 0
    assert fast.ask().status == 200


def test_a_request_in_the_body_of_one_that_was_answered_early_is_a_body(pair: tuple[Asker, Asker]) -> None:
    """Nothing is under way then, and what comes looks like a request all the same."""
    fast, _ = pair
    fast.client.sendall(post(b"", "/nowhere", length=len(post())))
    assert fast.read().status == 404
    fast.client.sendall(post())
    time.sleep(0.2)
    assert fast.num_fast == 0
    answer = fast.ask()
    assert (answer.status, fast.num_fast) == (200, 1), "one answer, to the request behind the body"


def test_a_request_in_the_head_of_another_is_a_header(pair: tuple[Asker, Asker]) -> None:
    """A proxy that lets such a header through has let one request through, and not two."""
    fast, _ = pair
    fast.client.sendall(b"GET /livez HTTP/1.1\r\nx-a: ")
    time.sleep(0.1)
    fast.client.sendall(post())
    answer = fast.read()
    assert (answer.json, fast.num_fast) == ({"status": "alive"}, 0)


def _two(client: socket.socket) -> list[str]:
    """The labels with which two requests of other texts are answered, in the order of the answers."""
    return [str(body["answers"][0]["topic"]["score"]) for _, body in read_answers(client, 2)]


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_requests_that_do_not_wait_are_answered_in_their_order(run_server: Run, pause: float) -> None:
    """The first takes the fast path, and the next must not overtake it."""
    engine = DummyEngine()
    asker = Asker(run_server(engine, PATIENT))
    first, second = (post(json.dumps({"text": "refund " * number}).encode()) for number in (1, 5))
    asker.client.sendall(first + second)
    expected = _two(asker.client)
    assert expected[0] != expected[1]
    engine.delay_seconds = 0.3
    asker.client.sendall(first)
    time.sleep(pause)
    asker.client.sendall(second)
    assert _two(asker.client) == expected
    if pause:  # else both may come in one read, which is no plain case
        assert asker.num_fast == 1
    engine.delay_seconds = 0.0
    assert asker.ask().status == 200
    asker.client.close()


def test_a_client_that_leaves_takes_its_request_with_it(pair: tuple[Asker, Asker]) -> None:
    """Work that nobody waits for is not run, and is counted as what it was."""
    fast, _ = pair
    engine: Any = fast.server.engine
    engine.delay_seconds = 20.0
    fast.client.sendall(post())
    wait_for(lambda: len(engine.received) == 2)
    fast.client.close()
    wait_for(lambda: engine.cancelled == 1)
    wait_for(lambda: _samples(fast).get('compressor_requests_total{route="/v1/predict",status="499"}') == 1)
    assert fast.num_fast == 1


def test_each_request_is_counted_once_when_clients_leave_at_any_time(
    run_server: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that crosses with its client's leaving is not written to a connection that has ended."""
    engine = DummyEngine()
    server = run_server(engine, Limits(connections=500))
    asker = Asker(server)
    asker.ask()
    engine.delay_seconds = 0.002
    for number in range(100):
        one = Asker(server)
        one.client.sendall(post())
        time.sleep(number % 10 * 0.0005)
        one.client.close()
    route = 'compressor_requests_total{route="/v1/predict",status='

    def num_counted() -> float:
        samples = _samples(asker)
        return samples[route + '"200"}'] + samples.get(route + '"499"}', 0.0)

    wait_for(lambda: num_counted() == 101)
    engine.delay_seconds = 0.0
    assert asker.ask().status == 200
    assert num_counted() == 102
    assert asker.num_fast == 101
    assert not caplog.records
    asker.client.close()


def test_a_large_answer_is_written_by_a_thread(
    run_server: Run, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop has others to answer meanwhile."""
    asker = Asker(run_server(DummyEngine(bundle), PATIENT))
    small = asker.ask()
    threads = []
    native = asker.server.app.fast_path.native
    reply_to = native.reply_to

    def watched(*given: Any) -> Any:
        threads.append(threading.current_thread().name)
        return reply_to(*given)

    monkeypatch.setattr(native, "reply_to", watched)
    assert asker.ask().body == small.body
    monkeypatch.setattr(answering, "LARGE_LOGITS", 1)
    assert _is_like(asker.ask(), small)
    assert asker.num_fast == 2
    assert threads[0] != threads[1]
    asker.client.close()


def test_what_a_thread_says_of_its_bundle_is_not_another_bundles(bundle: Bundle) -> None:
    """A large answer is written by a thread; after a swap the event loop answers with the new bundle meanwhile."""
    other = dummy_bundle(version="2")
    settings = ServerSettings()
    facts_of = answering.Answering(DummyEngine(), settings, Metrics(DummyEngine()), KeyRing(None))
    facts_of.facts(other)
    others = facts_of._known
    facts_of.facts(bundle)
    first = facts_of._known

    def looked_at() -> Bundle:
        facts_of._known = others
        return bundle

    facts_of._known = first._replace(bundle=looked_at)
    assert facts_of.facts(bundle).model == first.model
    assert facts_of.facts(other).model.version == "2"


def test_half_a_head_behind_a_request_is_no_obstacle(run_server: Run) -> None:
    """It is the beginning of an ordinary request, and the answer before it leaves all the same."""
    engine = DummyEngine()
    asker = Asker(run_server(engine, PATIENT))
    asker.ask()
    engine.delay_seconds = 0.2
    asker.client.sendall(post())
    time.sleep(0.05)
    asker.client.sendall(post()[:40])
    assert asker.read().status == 200
    engine.delay_seconds = 0.0
    asker.client.sendall(post()[40:])
    assert asker.read().status == 200
    assert asker.num_fast == 1
    assert asker.ask().status == 200
    assert asker.num_fast == 2
    asker.client.close()


@pytest.mark.parametrize(
    "settings", [{"fast_path": False}, {"access_log": True}, {"cors_origins": ("http://a",)}, {"keys_file": True}]
)
def test_settings_that_need_the_ordinary_way_for_each_request_have_it(settings: dict[str, Any], tmp_path: Any) -> None:
    """A key that is not asked for, or a line that is missing in the log, would be found out too late."""
    if "keys_file" in settings:
        settings = {"keys_file": tmp_path / "keys"}
        settings["keys_file"].write_text("")
    assert create_app(DummyEngine(), ServerSettings(**settings)).fast_path is None
    assert create_app(DummyEngine(), ServerSettings()).fast_path is not None


@pytest.mark.parametrize(
    ("limits", "allowed", "refused"),
    [
        (Limits(body_bytes=1000), {"text": "x" * 988}, {"text": "x" * 989}),
        (Limits(texts=2), {"text": ["x", "y"]}, {"text": ["x", "y", "z"]}),
        (Limits(characters=9), {"text": "x" * 9}, {"text": "x" * 10}),
    ],
    ids=["body", "texts", "characters"],
)
def test_limits_hold_to_the_last_unit(
    run_server: Run, limits: Limits, allowed: dict[str, Any], refused: dict[str, Any]
) -> None:
    """A head is learnt with one small text, and says nothing about the next ones."""
    asker = Asker(run_server(DummyEngine(), limits))
    asker.ask()
    assert asker.ask(json.dumps(allowed).encode()).status == 200
    assert asker.num_fast == 1
    assert asker.ask(json.dumps(refused).encode()).status == 413
    assert asker.num_fast == 1
    asker.client.close()


@pytest.mark.parametrize("is_first", [True, False], ids=["first on its connection", "after others"])
def test_the_time_that_an_answer_takes_is_not_the_clients(run_server: Run, is_first: bool) -> None:
    """A connection that waits for its answer is neither slow nor silent, and neither is it afterwards."""
    engine = DummyEngine()
    limits = Limits(header_seconds=0.4, idle_seconds=0.8)
    server = run_server(engine, limits)
    asker = Asker(server)
    asker.ask()
    if is_first:
        asker.client.close()
        asker = Asker(server)
    engine.delay_seconds = 1.5
    assert asker.ask().status == 200
    engine.delay_seconds = 0.0
    time.sleep(0.6)
    assert asker.ask().status == 200
    assert asker.num_fast == 2
    time.sleep(2.0)
    assert asker.client.recv(1) == b"", "the connection was silent for longer than the limit"
    asker.client.close()


def test_a_client_that_does_not_read_is_answered_when_it_does(pair: tuple[Asker, Asker]) -> None:
    """The ordinary way waits for it; answers would pile up otherwise."""
    fast, _ = pair
    connection: Any = next(iter(fast.server.server.server_state.connections))
    connection.loop.call_soon_threadsafe(connection.flow.pause_writing)
    wait_for(lambda: bool(connection.flow.write_paused))
    fast.client.sendall(post())
    time.sleep(0.2)
    fast.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        fast.client.recv(1)
    fast.client.settimeout(5)
    connection.loop.call_soon_threadsafe(connection.flow.resume_writing)
    assert fast.read().status == 200
    assert fast.num_fast == 0
    assert fast.ask().status == 200
    assert fast.num_fast == 1


def test_a_large_body_is_left_unread(pair: tuple[Asker, Asker]) -> None:
    """It would be decoded twice where it holds many texts."""
    fast, ordinary = pair
    body = json.dumps({"text": "refund " * (SMALL_BODY_BYTES // 7)}).encode()
    assert _is_like(fast.ask(body), ordinary.ask(body))
    assert fast.num_fast == 0


@pytest.mark.parametrize("failing", ["the head", "the count"])
def test_an_answer_that_cannot_be_written_ends_its_connection(
    pair: tuple[Asker, Asker], monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """A client that gets nothing at all waits for ever, and so does a drain."""
    fast, _ = pair
    app = fast.server.app

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    if failing == "the head":
        monkeypatch.setattr(fast_path, "head_of", fail)
        fast.client.sendall(post())
    else:
        monkeypatch.setattr(app._metrics, "finished", fail)
        assert fast.ask().status == 200
    assert fast.client.recv(1) == b""
    monkeypatch.undo()
    wait_for(lambda: not fast.server.server.server_state.connections)


def test_bytes_that_are_no_http_behind_a_request_end_the_connection(pair: tuple[Asker, Asker]) -> None:
    """As on the ordinary way."""
    for asker in pair:
        engine: Any = asker.server.engine
        engine.delay_seconds = 0.2
        asker.client.sendall(post())
        time.sleep(0.05)
        asker.client.sendall(b"\x00\x01garbage\r\n\r\n")
        assert asker.client.recv(65_536) == b""
        engine.delay_seconds = 0.0


@pytest.mark.parametrize("failure", [None, Expired("too late")])
def test_a_request_leaves_no_circle_behind(pair: tuple[Asker, Asker], failure: Exception | None) -> None:
    """Collections are rare in a server: what is in a circle would keep texts, and a bundle that was swapped."""
    fast, _ = pair
    engine: Any = fast.server.engine
    engine.failure = lambda number, work: failure
    fast.ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            fast.ask()
        wait_for(lambda: not any(isinstance(found, FastExchange) for found in gc.get_objects()))
    finally:
        gc.enable()


def test_it_serves_models_of_other_tasks(run_server: Run) -> None:
    """Nothing in it knows one model."""
    many = tuple(DUMMY_TASK.__class__(name=f"t{i}", type="classification", labels=("a", "b")) for i in range(3))
    asker = Asker(run_server(DummyEngine(dummy_bundle(many)), PATIENT))
    first, second = asker.ask(), asker.ask()
    assert first.body == second.body
    assert set(second.json["answers"][0]) == {"t0", "t1", "t2"}
    assert asker.num_fast == 1
    asker.client.close()


def test_heads_are_bounded() -> None:
    """What a client may have the server remember."""
    assert fast_path.KNOWN_HEADS * fast_path.LONGEST_HEAD_BYTES <= 1 << 20


def test_the_application_answers_under_a_server_that_gives_no_state(engine: DummyEngine) -> None:
    """ASGI leaves that to servers; the fast path's own words to the application stand in it."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/livez", "query_string": b"", "headers": []}
    asyncio.run(create_app(engine, ServerSettings())(scope, _never, send))
    assert sent[0]["status"] == 200
