"""The HTTP server: in memory for its forms, and as a real process for its life."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib import request as http
from urllib.error import HTTPError

import pytest
from starlette.testclient import TestClient

from serving.bundle import Bundle
from serving.errors import UserError
from serving.server import MAX_BODY_BYTES, create_app, serve

START_SECONDS = 60


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    """The toy bundle, loaded."""
    return Bundle.load(bundle_folder)


@pytest.fixture
def client(bundle: Bundle) -> Iterator[TestClient]:
    """A client of the application in this process, which answers 500 as a server would."""
    with TestClient(create_app(bundle, lanes=2), raise_server_exceptions=False) as client:
        yield client


def test_one_text_and_a_list_are_answered_in_the_same_form(client: TestClient, bundle: Bundle) -> None:
    """Served answers must equal offline ones, in the order of the texts."""
    texts = ["refund", "broken thanks"]
    reply = client.post("/v1/predict", json={"text": texts}).json()
    assert reply == {
        "answers": bundle.predict(texts),
        "truncated": [False, False],
        "model": {"name": "toy", "version": "1", "precision": "fp32"},
    }
    assert client.post("/v1/predict", json={"text": "refund"}).json()["answers"] == reply["answers"][:1]


def test_tasks_and_top_k_narrow_the_answer(client: TestClient) -> None:
    """A field that is accepted and ignored is worse than one that is refused."""
    reply = client.post("/v1/predict", json={"text": "refund", "tasks": ["intent"], "top_k": 1}).json()
    ((task, answer),) = reply["answers"][0].items()
    assert (task, len(answer["scores"])) == ("intent", 1)


def test_pairs_are_lists_of_two(pair_bundle_folder: Path) -> None:
    """Two strings in one list are two texts, not a pair: the error must say so instead of answering."""
    bundle = Bundle.load(pair_bundle_folder)
    with TestClient(create_app(bundle)) as client:
        reply = client.post("/v1/predict", json={"text": [["refund", "thanks"]]})
        assert reply.json()["answers"] == bundle.predict([("refund", "thanks")])
        refused = client.post("/v1/predict", json={"text": ["refund", "thanks"]})
        assert refused.status_code == 422
        assert "premise, hypothesis" in refused.json()["error"]["message"]


def test_truncated_texts_are_marked(client: TestClient) -> None:
    """The caller cannot count tokens; an answer for half a text has to say so."""
    assert client.post("/v1/predict", json={"text": ["refund", "refund " * 30]}).json()["truncated"] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"{", 400, "invalid_json", "not JSON"),
        (b"", 400, "invalid_json", "not JSON"),
        (b'{"text": "\xff"}', 400, "invalid_json", "not UTF-8"),
        (b'{"text": "\\ud800"}', 400, "invalid_json", "not JSON"),
        (b'{"text": ' + b"[" * 100_000, 422, "invalid_request", "text"),
        (b"[]", 422, "invalid_request", "object"),
        (b"{}", 422, "invalid_request", "`text`"),
        (b'{"text": 3}', 422, "invalid_request", "$.text"),
        (b'{"text": [["a", "b", "c"]]}', 422, "invalid_request", "length 2"),
        (b'{"text": "refund", "topk": 1}', 422, "invalid_request", "`topk`"),
        (b'{"text": "refund", "top_k": 0}', 422, "invalid_request", "top_k is 0"),
        (b'{"text": "refund", "tasks": ["tone"]}', 422, "invalid_request", "intent, topics, urgency"),
        (b'{"text": ["refund", " "]}', 422, "invalid_request", "text 1 is empty"),
        (b'"' + b"x" * MAX_BODY_BYTES + b'"', 413, "too_large", "larger than"),
        (b'{"text": "poison"}', 500, "model_failed", "not numbers"),
    ],
    ids=lambda value: repr(value)[:32],
)
def test_every_refusal_is_json_with_a_code(
    client: TestClient, body: bytes, status: int, code: str, message: str
) -> None:
    """A caller branches on the code; a 500 for a caller's mistake wakes the wrong people."""
    reply = client.post("/v1/predict", content=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code)
    assert message in error["message"]
    assert client.post("/v1/predict", json={"text": "refund"}).status_code == 200


def test_unknown_paths_and_methods_are_json_too(client: TestClient) -> None:
    """Half of the errors in another form break every client's parser."""
    assert client.get("/nowhere").json()["error"]["code"] == "not_found"
    refused = client.get("/v1/predict")
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
    assert refused.headers["allow"] == "POST"


def test_our_own_faults_tell_the_caller_nothing_inside(
    client: TestClient, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracebacks and paths belong into the log."""
    monkeypatch.setattr(bundle, "encode", lambda texts: 1 / 0)
    reply = client.post("/v1/predict", json={"text": "refund"})
    assert reply.status_code == 500
    assert reply.json()["error"] == {
        "code": "internal_error",
        "message": "the server failed; its log tells why",
    }


def test_the_event_loop_stays_free_while_the_model_runs(
    client: TestClient, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model on the event loop stops the liveness probe, and the orchestrator kills a busy server."""
    inside, release = threading.Event(), threading.Event()
    run = bundle.run

    def slow(*arguments: Any) -> Any:
        inside.set()
        assert release.wait(START_SECONDS)
        return run(*arguments)

    monkeypatch.setattr(bundle, "run", slow)
    replies: list[int] = []
    caller = threading.Thread(
        target=lambda: replies.append(client.post("/v1/predict", json={"text": "refund"}).status_code)
    )
    caller.start()
    try:
        assert inside.wait(START_SECONDS)
        assert client.get("/livez").json() == {"status": "alive"}
        assert not replies
    finally:
        release.set()
        caller.join()
    assert replies == [200]


def test_a_taken_port_is_the_users_to_mend(bundle_folder: Path) -> None:
    """Uvicorn itself would log it and exit with 1, as if it were our fault."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}: .*--port"):
            serve(bundle_folder, port=port)


def test_an_impossible_address_is_the_users_to_mend(bundle_folder: Path) -> None:
    """A port above 65535 raises OverflowError in the socket module, a foreign address an OSError."""
    with pytest.raises(UserError, match="port 70000 does not exist"):
        serve(bundle_folder, port=70_000)
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1:0: .*--host"):
        serve(bundle_folder, host="192.0.2.1", port=0)


def _start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    code = "import sys; from serving.server import serve; serve(sys.argv[1], port=0, precision=sys.argv[2])"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_address(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What was printed until the server listens, and its address."""
    assert process.stderr is not None
    printed = ""
    for line in process.stderr:
        printed += line
        if address := re.search(r"listening on (http://\S+)", line):
            return printed, address[1]
    raise AssertionError(f"the server ended: {printed}")


def _get(url: str, body: object = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    with http.urlopen(http.Request(url, data=content), timeout=START_SECONDS) as reply:
        return json.load(reply)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_real_process_answers_and_ends_with_zero_on_a_signal(bundle_folder: Path, number: signal.Signals) -> None:
    """Uvicorn raises the caught signal again at its end: an orderly stop would count as a crash."""
    process = _start(bundle_folder, "int8")
    try:
        printed, address = _wait_for_address(process)
        assert "model.int8.onnx (int8" in printed
        assert _get(f"{address}/livez") == {"status": "alive"}
        assert _get(f"{address}/readyz")["status"] == "ready"
        reply = _get(f"{address}/v1/predict", {"text": "broken thanks"})
        assert reply["answers"] == Bundle.load(bundle_folder, "int8").predict(["broken thanks"])
        with pytest.raises(HTTPError, match="404") as refused:
            _get(f"{address}/nowhere")
        refused.value.close()
        process.send_signal(number)
        output, errors = process.communicate(timeout=START_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, output, errors) == (0, "", "")
