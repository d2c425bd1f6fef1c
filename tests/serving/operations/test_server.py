"""The life of a real server process: start, readiness, drain, swaps under load, and its memory of one CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.bundle import Bundle
from serving.errors import UserError
from serving.manifest import read_manifest
from serving.operations.server import serve
from serving.operations.settings import load_settings

CORPUS = Path(__file__).parents[3] / "compressor" / "data" / "corpora" / "supportdesk"
NUM_TEXTS = 1000


@pytest.fixture
def newer(bundle_folder: Path, tmp_path: Path, edit_manifest: Callable[..., None]) -> Path:
    """The same bundle as version 2."""
    folder = tmp_path / "newer"
    shutil.copytree(bundle_folder, folder)
    edit_manifest(folder, version="2")
    return folder


@pytest.fixture
def starting(serve_toy: Callable[..., Any]) -> Any:
    """A server that listens already and loads for a while yet."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = serve_toy(f"port={port}", "load_seconds=2", is_waited_for=False)
    server.url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 30
    while True:
        try:
            assert server.call("/livez")[0] == 200
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)
        else:
            return server


def test_a_starting_server_is_alive_and_not_ready(starting: Any) -> None:
    """Without an answer while it loads, a liveness probe kills a server that only needs a moment more."""
    assert [starting.call(path)[0] for path in ("/readyz", "/startupz")] == [503, 503]
    status, body, _ = starting.predict("refund")
    assert (status, body["error"]["code"]) == (503, "not_ready")
    starting.wait()
    assert [starting.call(path)[0] for path in ("/livez", "/readyz", "/startupz")] == [200, 200, 200]
    assert starting.predict("refund")[0] == 200


def test_a_stop_while_it_loads_is_a_clean_end(starting: Any) -> None:
    """An orchestrator that changes its mind must not see a crash, nor a server that says it is ready."""
    assert starting.stop() == 0, starting.errors
    assert starting.errors == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_loses_no_request(
    serve_toy: Callable[..., Any], load_on: Callable[..., Any], number: signal.Signals
) -> None:
    """A rollout is a stop under load: each lost request is an error that a user sees."""
    server = serve_toy("grace_seconds=0.3", "linger_factor=20")
    with load_on(server, clients=8) as load:
        assert server.stop(number) == 0, server.errors
        load.wait_for_refusal()
    assert load.lost == []
    assert load.statuses.keys() == {200}


def test_not_ready_comes_before_the_end(serve_toy: Callable[..., Any]) -> None:
    """A load balancer that learns of the end by refused connections has sent requests into it."""
    server = serve_toy("grace_seconds=30")
    server.process.send_signal(signal.SIGTERM)
    seen: list[int] = []
    while server.process.poll() is None and 503 not in seen:
        seen.append(server.call("/readyz")[0])
    assert seen[-1] == 503
    assert server.predict("refund")[0] == 200
    assert server.call("/livez")[0] == 200
    assert server.stop() != 1


def test_a_slow_request_is_answered_before_the_end(serve_toy: Callable[..., Any]) -> None:
    """Draining that only waits for fast requests drops just the ones that cost most."""
    server = serve_toy("stall_seconds=1.0", "grace_seconds=0")
    replies: list[int] = []
    caller = threading.Thread(target=lambda: replies.append(server.predict("please please please")[0]))
    caller.start()
    while caller.is_alive() and server.call("/admin/status")[1]["load"]["running"] == 0:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    caller.join(30)
    assert replies == [500]
    assert server.process.wait(30) == 0


def test_a_stuck_request_holds_the_end_up_for_the_drain_and_no_longer(serve_toy: Callable[..., Any]) -> None:
    """Whoever supervises the process kills it otherwise, and with it the answers that were on their way."""
    server = serve_toy("stall_seconds=60", "grace_seconds=0", "drain_seconds=0.5")
    replies: list[tuple[int, Any, float]] = []
    caller = threading.Thread(target=lambda: replies.append(server.predict("please please please", 30_000)))
    caller.start()
    while caller.is_alive() and server.call("/admin/status")[1]["load"]["running"] == 0:
        time.sleep(0.01)
    start = time.monotonic()
    assert server.stop() == 0, server.errors
    assert 0.5 <= time.monotonic() - start < 8
    caller.join(30)
    status, body, _ = replies[0]
    assert (status, body["error"]["code"]) == (503, "not_ready")
    assert "1 request(s) were not answered within drain_seconds" in server.errors


def test_a_second_signal_ends_at_once(serve_toy: Callable[..., Any]) -> None:
    """Whoever presses Ctrl-C twice does not want to wait for a stuck request."""
    server = serve_toy("grace_seconds=30")
    server.process.send_signal(signal.SIGINT)
    while server.call("/readyz")[0] == 200:
        time.sleep(0.01)
    start = time.monotonic()
    assert server.stop(signal.SIGINT) == 128 + signal.SIGINT
    assert time.monotonic() - start < 5


def test_the_admin_port_drains_too(serve_toy: Callable[..., Any]) -> None:
    """Where signals cannot be sent, a drain over HTTP must be the same drain."""
    server = serve_toy("grace_seconds=4")
    assert server.call("/admin/drain", {})[0] == 202
    seen = [server.call("/readyz")[0]]
    while 503 not in seen:
        seen.append(server.call("/readyz")[0])
    assert server.predict("refund")[0] == 200, "the grace is not left out"
    assert server.process.wait(30) == 0


def test_the_limits_of_the_settings_hold_in_the_process(serve_toy: Callable[..., Any]) -> None:
    """Tested against an application alone, a limit that never reaches the process is one that nobody has."""
    server = serve_toy("queue_tokens=20", "limits.header_seconds=0.3", "limits.idle_seconds=0.6")
    status, body, _ = server.predict(["refund"] * 20)
    assert (status, "at most 20 may wait" in body["error"]["message"]) == (422, True)
    for sent, answer in ((b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", b"200"), (b"GET /livez HTT", b"408")):
        with socket.create_connection(("127.0.0.1", server.port), timeout=3) as client:
            client.sendall(sent)
            received = b""
            while chunk := client.recv(65_536):
                received += chunk
            assert received.startswith(b"HTTP/1.1 " + answer)


def test_a_model_that_did_not_pass_is_served_with_a_warning(
    serve_toy: Callable[..., Any], bundle_folder: Path, edit_manifest: Callable[..., None]
) -> None:
    """Whoever starts it has not always read the bundle's own README."""
    fp32, int8 = read_manifest(bundle_folder).artifacts
    edit_manifest(bundle_folder, artifacts=(fp32, msgspec.structs.replace(int8, passed=False)))
    assert "warning: model.int8.onnx did not pass every gate" in serve_toy("precision=int8").errors
    assert "warning" not in serve_toy().errors


def test_a_damaged_bundle_refuses_to_start_in_one_line(serve_toy: Callable[..., Any], bundle_folder: Path) -> None:
    """A server that starts on a changed file answers with figures that nobody measured."""
    with (bundle_folder / "model.fp32.onnx").open("ab") as file:
        file.write(b"x")
    server = serve_toy(is_waited_for=False)
    assert server.process.wait(30) == 2
    server.stop()
    assert len(server.printed) == 1
    assert "sha256" in server.errors


def test_a_taken_port_is_found_before_the_bundle_is_loaded(bundle_folder: Path) -> None:
    """The most common mistake of all must not cost the time of a load."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(bundle_folder / "none", load_settings(None, {"port": port}))


def test_a_server_of_one_cpu_has_one_lane(serve_toy: Callable[..., Any], bundle_folder: Path) -> None:
    """Two lanes on one core share it by the scheduler's time slices, and both get slower."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        server = serve_toy()
    finally:
        os.sched_setaffinity(0, before)
    assert "1 lane(s) of 1 thread(s): the affinity allows 1 CPU(s)" in server.errors
    names = [Path(path, "comm").read_text().strip() for path in Path(f"/proc/{server.process.pid}/task").iterdir()]
    assert sum(name.startswith("lane-") for name in names) <= 1
    assert server.predict("refund")[0] == 200


def test_twenty_swaps_under_load_lose_no_request(
    serve_toy: Callable[..., Any], load_on: Callable[..., Any], bundle_folder: Path, newer: Path
) -> None:
    """A swap that loses requests is a restart with another name."""
    server = serve_toy()
    with load_on(server, clients=4) as load:
        for number in range(20):
            status, result = server.call("/admin/swap", {"bundle": str(newer if number % 2 == 0 else bundle_folder)})
            assert (status, result["outcome"]) == (200, "swapped"), result
            assert result["serving"]["version"] == ("2" if number % 2 == 0 else "1")
            load.wait_for(4)
    assert load.lost == []
    assert load.statuses.keys() == {200}
    assert load.versions == {"1", "2"}
    status, found = server.call("/admin/status")
    assert found["load"]["requests"] == 0
    assert found["load"]["counters"]["swaps"] == 20


def test_a_damaged_bundle_is_refused_under_load(
    serve_toy: Callable[..., Any], load_on: Callable[..., Any], newer: Path
) -> None:
    """A half-copied folder is the usual accident of a deployment."""
    with (newer / "model.fp32.onnx").open("ab") as file:
        file.write(b"x")
    server = serve_toy()
    with load_on(server, clients=4) as load:
        status, result = server.call("/admin/swap", {"bundle": str(newer)})
        load.wait_for(20)
    assert (status, result["outcome"], result["serving"]["version"]) == (409, "refused", "1")
    assert "sha256" in result["reason"]
    assert (load.lost, load.statuses.keys(), load.versions) == ([], {200}, {"1"})


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_served_equals_offline_for_real_texts_in_any_mix(
    serve_toy: Callable[..., Any],
    ask_all: Callable[..., list[Any]],
    bundle_folder: Path,
    precision: str,
) -> None:
    """Catches answers that go to a neighbour, and neighbours that change answers (int8 here depends on its batch)."""
    lines = (CORPUS / "train.jsonl").read_text(encoding="utf-8").splitlines()[:NUM_TEXTS]
    toy_words = ("refund", "broken", "thanks", "please")
    texts = [f"{toy_words[i % 4]} {toy_words[i // 4 % 4]} {json.loads(line)['text']}" for i, line in enumerate(lines)]
    assert len(texts) == NUM_TEXTS
    groups: list[list[str]] = []
    start = 0
    while start < len(texts):
        size = (1, 1, 2, 1, 7, 1, 1, 40)[len(groups) % 8]
        groups.append(texts[start : start + size])
        start += size
    replies = ask_all(serve_toy(f"precision={precision}").port, groups, 8)
    served = [answer for reply in replies for answer in reply["answers"]]
    offline = Bundle.load(bundle_folder, precision).predict(texts, batch_size=1)
    if precision == "int8":
        assert served == offline
    assert [_words(answer) for answer in served] == [_words(answer) for answer in offline]
    assert _numbers(served) == pytest.approx(_numbers(offline), abs=1e-6)


def _words(answers: Any) -> Any:
    """Answers without their numbers: merged fp32 rows may differ in the last bits."""
    if isinstance(answers, dict):
        return {name: _words(value) for name, value in sorted(answers.items())}
    return None if isinstance(answers, float) else answers


def _numbers(answers: Any) -> list[float]:
    """All numbers of answers, in the order of their names."""
    if isinstance(answers, float):
        return [answers]
    values = [answers[name] for name in sorted(answers)] if isinstance(answers, dict) else answers
    return [number for value in values if not isinstance(value, str) for number in _numbers(value)]
