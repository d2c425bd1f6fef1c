"""Metrics, logs and cross-origin rules: what others see of a request."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.engine.contract import Expired, Overloaded
from serving.engine.dummy import DummyEngine
from serving.http.logs import configure_logs
from tests.serving.http.conftest import Caller

SECRET = "refund my thing"


def samples(call: Caller) -> dict[str, float]:
    """Every sample of /metrics by name and labels."""
    families = text_string_to_metric_families(call.get("/metrics").body.decode())
    return {
        sample.name + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def lines() -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """`lines(access_log=True)` begins to log; later calls give what was logged."""
    names = ("serving", "serving.access", "uvicorn", "asyncio")
    before = {name: vars(logging.getLogger(name)).copy() for name in names}
    handlers = {name: list(logging.getLogger(name).handlers) for name in names}
    stream = io.StringIO()

    def read(**settings: bool) -> list[dict[str, Any]]:
        if settings:
            configure_logs(settings["access_log"], stream)
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield read
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers[name]
        logger.propagate = before[name]["propagate"]
        logger.setLevel(before[name]["level"])


def test_requests_texts_tokens_and_refusals_are_counted(call: Caller, engine: DummyEngine) -> None:
    """Alerts and sizing stand on these figures."""
    call.post("/v1/predict", {"text": ["refund", "refund " * 30]})
    engine.failure = lambda number, work: Overloaded(1.0) if number == 1 else Expired("late")
    call.post("/v1/predict", {"text": "refund"})
    call.post("/v1/predict", {"text": "refund"})
    call.post("/v1/predict", b"{")
    found = samples(call)
    assert found["compressor_requests_total|/v1/predict|200"] == 1
    assert found["compressor_requests_total|/v1/predict|429"] == 1
    assert found["compressor_requests_total|/v1/predict|504"] == 1
    assert found["compressor_texts_total"] == 2
    assert found["compressor_tokens_total"] == 3 + 8
    assert found["compressor_truncated_texts_total"] == 1
    assert found["compressor_expired_total"] == 1
    assert found["compressor_refused_total|overloaded"] == found["compressor_refused_total|invalid_json"] == 1
    assert found["compressor_request_seconds_count|/v1/predict"] == 1


def test_the_engine_is_asked_when_the_scrape_comes(call: Caller, engine: DummyEngine) -> None:
    """Gauges that are set only by requests stand still while the server is stuck."""
    engine.counters = {"swaps": 2, "lane_failures": 1}
    found = samples(call)
    assert found["compressor_ready"] == found["compressor_lanes_alive"] == 1
    assert found["compressor_swaps_total"] == 2
    assert found["compressor_engine_events_total|lane_failures"] == 1
    assert any(name.startswith("compressor_bundle_info|toy|fp32|") for name in found)
    engine.state = "failed"
    assert samples(call)["compressor_lanes_alive"] == 0


def test_clients_cannot_make_series(call: Caller) -> None:
    """One series per path that somebody tries fills the memory of the server and of Prometheus."""
    for number in range(20):
        call.get(f"/nowhere/{number}")
        call.get(f"/v2/models/{number}")
    routes = {name for name in samples(call) if name.startswith("compressor_requests_total|")}
    assert routes == {"compressor_requests_total|other|404"}


def test_two_applications_do_not_share_their_figures(call: Caller, make_call: Callable[..., Caller]) -> None:
    """A global registry raises on the second application, or adds up both."""
    call.post("/v1/predict", {"text": "refund"})
    assert samples(make_call(DummyEngine()))["compressor_texts_total"] == 0


def test_no_text_is_logged_unless_asked_for(
    make_call: Callable[..., Caller], lines: Callable[..., list[dict[str, Any]]]
) -> None:
    """Texts are personal data; a log keeps them for years."""
    lines(access_log=True)
    make_call(DummyEngine(), access_log=True).post("/v1/predict", {"text": SECRET}, x_request_id="r1")
    (line,) = lines()
    assert (line["request_id"], line["route"], line["status"], line["texts"]) == ("r1", "/v1/predict", 200, 1)
    assert line["tokens"] == 3
    assert SECRET not in json.dumps(line)
    make_call(DummyEngine(), access_log=True, log_texts=True).post("/v1/predict", {"text": SECRET})
    assert lines()[1]["text"] == [[SECRET]]


def test_our_own_failures_are_always_logged_with_the_requests_id(
    make_call: Callable[..., Caller], lines: Callable[..., list[dict[str, Any]]]
) -> None:
    """The caller is told only that the log tells why: it has to."""
    lines(access_log=False)
    engine = DummyEngine()
    engine.failure = lambda number, work: ZeroDivisionError("inside")
    make_call(engine).post("/v1/predict", {"text": SECRET}, x_request_id="r2")
    (line,) = lines()
    assert (line["request_id"], line["level"], line["message"]) == ("r2", "error", "ZeroDivisionError: inside")
    assert "Traceback" in line["traceback"]
    assert SECRET not in json.dumps(line)


def test_a_refusal_is_no_failure_of_ours(call: Caller, lines: Callable[..., list[dict[str, Any]]]) -> None:
    """Logged as errors, other people's mistakes hide ours."""
    lines(access_log=False)
    call.post("/v1/predict", b"{")
    call.get("/nowhere")
    assert lines() == []


def test_other_origins_are_shut_out_by_default(call: Caller) -> None:
    """Any page that a colleague opens could else read the model's answers through his browser."""
    reply = call.post("/v1/predict", {"text": "refund"}, origin="https://elsewhere.example")
    assert not [name for name in reply.headers if name.startswith("access-control")]
    headers = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
    assert call("OPTIONS", "/v1/predict", headers=headers).status == 405


def test_a_named_origin_may_ask_and_read(make_call: Callable[..., Caller]) -> None:
    """Errors must be readable too, or the page shows a network failure instead of the reason."""
    call = make_call(DummyEngine(), cors_origins=("https://app.example",))
    allowed = {"origin": "https://app.example", "access-control-request-method": "POST"}
    preflight = call("OPTIONS", "/v1/predict", headers=allowed)
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert preflight.headers["access-control-allow-methods"] == "POST"
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    for body in ({"text": "refund"}, b"{"):
        reply = call.post("/v1/predict", body, origin="https://app.example")
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        assert reply.headers["vary"] == "origin"
    other = call.post("/v1/predict", {"text": "refund"}, origin="https://app.example.evil.example")
    assert "access-control-allow-origin" not in other.headers
    assert other.headers["vary"] == "origin"


def test_a_star_allows_all_origins(make_call: Callable[..., Caller]) -> None:
    """Written out by whoever wants it; never the default."""
    call = make_call(DummyEngine(), cors_origins=("*",))
    assert call.get("/v1/info", origin="https://any.example").headers["access-control-allow-origin"]
