"""What breaks while a real server serves: every request still gets its final answer, and in time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

LATENESS_SECONDS = 0.1
DEADLINE_MS = 10_000
STALL = "stall_seconds=2.0"
FAILS = "broken broken broken"
RUNS_OUT_OF_MEMORY = "refund refund refund"
HANGS = "please please please"
IS_NO_NUMBER = "poison"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_failing_text_fails_alone_and_in_time(
    serve_toy: Callable[..., Any], load_on: Callable[..., Any], precision: str
) -> None:
    """One caller's text must not take the others' answers with it, nor leave its own caller waiting."""
    server = serve_toy(STALL, f"precision={precision}")
    with load_on(server, clients=4) as load:
        for text in (FAILS, RUNS_OUT_OF_MEMORY, IS_NO_NUMBER):
            assert_fails_in_time(server.predict(text, DEADLINE_MS))
            load.wait_for(10)
    assert (load.lost, load.statuses.keys()) == ([], {200})
    assert_all_is_well(server)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_call_that_hangs_is_given_up_in_time(
    serve_toy: Callable[..., Any], load_on: Callable[..., Any], precision: str
) -> None:
    """A lane that never comes back must cost one lane for a moment, not the server.

    In fp32 other texts may share the call that hangs, and end with it.
    """
    server = serve_toy("lanes=2", STALL, f"precision={precision}")
    with load_on(server, clients=4) as load:
        for _ in range(2):
            assert_fails_in_time(server.predict(HANGS, DEADLINE_MS))
            load.wait_for(10)
    assert load.lost == []
    assert load.statuses.keys() - {200} <= ({500} if precision == "fp32" else set())
    assert load.statuses.get(500, 0) <= 8
    assert load.longest_seconds <= DEADLINE_MS / 1000
    assert_all_is_well(server)


def assert_fails_in_time(reply: tuple[int, Any, float]) -> None:
    """A 500 with its code, before the deadline."""
    status, body, seconds = reply
    assert (status, body["error"]["code"]) == (500, "model_failed")
    assert seconds <= DEADLINE_MS / 1000 + LATENESS_SECONDS


def assert_all_is_well(server: Any) -> None:
    """Alive, ready, all lanes at work, nothing left over."""
    assert server.call("/livez")[0] == server.call("/readyz")[0] == 200
    found = server.call("/admin/status")[1]["load"]
    assert (found["requests"], found["lanes_alive"]) == (0, found["lanes"])


def test_a_poison_item_in_a_list_fails_its_request_only(serve_toy: Callable[..., Any]) -> None:
    """Half of a list's answers with status 200 would be read as all of them."""
    server = serve_toy()
    status, body, _ = server.predict(["refund", IS_NO_NUMBER, "thanks"])
    assert (status, body["error"]["code"]) == (500, "model_failed")
    assert server.predict(["refund", "thanks"])[0] == 200


def test_a_deadline_holds_while_all_lanes_hang(serve_toy: Callable[..., Any]) -> None:
    """A caller with a deadline of its own must not learn of ours by its own timeout."""
    server = serve_toy("lanes=1", "stall_seconds=30")
    with ThreadPoolExecutor(4) as callers:
        hung = callers.submit(server.predict, HANGS, 600)
        while server.call("/admin/status")[1]["load"]["running"] == 0 and not hung.done():
            time.sleep(0.01)
        waiting = [callers.submit(server.predict, "thanks", 600) for _ in range(3)]
        for reply in (hung, *waiting):
            status, body, seconds = reply.result()
            assert status in (429, 504), body
            assert seconds <= 5, "not by the deadline, which is long over"
    assert server.call("/livez")[0] == 200


def test_liveness_ends_when_lanes_cannot_be_replaced_any_more(serve_toy: Callable[..., Any]) -> None:
    """A process whose every lane hangs answers nothing again, while its event loop says that all is well.

    It ends by itself then: systemd and a bare container engine ask no probe.
    """
    server = serve_toy("lanes=1", "stall_seconds=0.4")
    seen: list[int] = []
    for _ in range(6):
        start = time.monotonic()
        status, _, seconds = server.predict(HANGS, DEADLINE_MS)
        assert status in (500, 504)
        assert seconds <= DEADLINE_MS / 1000 + LATENESS_SECONDS
        seen.append(server.call("/livez")[0])
        if seen[-1] != 200:
            break
    assert seen[0] == 200
    assert seen[-1] == 503
    assert server.call("/readyz")[0] == 503
    assert server.predict("thanks", DEADLINE_MS)[0] == 500
    assert server.process.wait(20) == 1
    assert time.monotonic() - start > 3, "probes and clients are told for a while, or they see a crash"
    assert server.stop() == 1
    assert server.errors.count("the engine has failed") == 1


def test_a_server_outlives_its_model_file(serve_toy: Callable[..., Any], bundle_folder: Path) -> None:
    """Deployments replace folders under running servers: they must go on, and refuse to load what is half gone."""
    server = serve_toy()
    before = server.predict("refund thanks")[1]["answers"]
    (bundle_folder / "model.fp32.onnx").unlink()
    assert server.predict("refund thanks")[1]["answers"] == before
    status, result = server.call("/admin/swap", {"bundle": str(bundle_folder)})
    assert (status, result["outcome"]) == (409, "refused")
    assert "model.fp32.onnx" in result["reason"]
    assert server.predict("refund thanks")[1]["answers"] == before


def test_clients_that_leave_take_nothing_with_them(serve_toy: Callable[..., Any], load_on: Callable[..., Any]) -> None:
    """Work for callers who have gone would fill the queue just when everybody loses patience."""
    server = serve_toy()
    with load_on(server, clients=4) as load:
        asyncio.run(_leave_early(server.port, 200))
        load.wait_for(20)
    assert (load.lost, load.statuses.keys()) == ([], {200})
    end = time.monotonic() + 5
    while server.call("/admin/status")[1]["load"]["requests"] and time.monotonic() < end:
        time.sleep(0.02)
    found = server.call("/admin/status")[1]["load"]
    assert (found["requests"], found["queued_texts"], found["running"]) == (0, 0, 0)
    assert "Traceback" not in server.errors


async def _leave_early(port: int, times: int) -> None:
    """Requests whose clients close at once: in the head, in the body, or before the answer."""
    body = json.dumps({"text": ["refund thanks"] * 20}).encode()
    whole = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    for number in range(times):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(whole[: (20, len(whole) - 5, len(whole))[number % 3]])
        await writer.drain()
        writer.close()
