"""`POST /v1/predict`: what is served is what the bundle says, and every refusal has its status."""

from __future__ import annotations

import gc
import re
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.answers import answer, answer_rows
from serving.bundle import Bundle
from serving.engine.contract import Answered, Expired, LaneFailed, NotReady, Overloaded, State
from serving.engine.dummy import DummyEngine, dummy_bundle
from serving.errors import BundleError
from serving.http import inference_v2, native, tei
from serving.http.answering import written
from serving.manifest import TaskSpec, TaskType
from serving.operations.front import Front
from serving.operations.settings import Limits
from tests.serving.http.conftest import Caller

WORDS = ("refund", "broken", "thanks", "please", "unheard")
MAX_BODY = Limits().body_bytes


def test_any_mix_of_texts_is_answered_as_the_bundle_answers_it(call: Caller, bundle: Bundle) -> None:
    """Served answers must equal offline ones, to the last bit and in the order of the texts."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        texts = [
            " ".join(generator.choice(WORDS, size=generator.integers(1, 7))) for _ in range(generator.integers(1, 9))
        ]
        tasks = [None, ["intent"], ["urgency", "topics"]][generator.integers(3)]
        top_k = [None, 1, 2][generator.integers(3)]
        reply = call.post("/v1/predict", {"text": texts, "tasks": tasks, "top_k": top_k})
        assert reply.json["answers"] == bundle.predict(texts, tasks, top_k)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_many_rows_are_answered_as_each_alone(kind: TaskType) -> None:
    """A neighbour that changes the last bit of a score makes served and offline answers differ."""
    labels = () if kind == "regression" else tuple(map(str, range(23)))
    task = TaskSpec(name="task", type=kind, labels=labels, temperature=1.7)
    logits = np.random.default_rng(1).normal(scale=9, size=(211, task.num_outputs)).astype(np.float32)
    for top_k in (None, 1, 5, 40):
        assert answer_rows(logits, task, top_k) == [answer(row, task, top_k) for row in logits]


@pytest.mark.parametrize(
    ("path", "body", "many"),
    [
        ("/v1/predict", lambda texts: {"text": texts, "raw": True}, lambda answer: answer["answers"]),
        ("/predict", lambda texts: {"inputs": [[text] for text in texts]}, lambda answer: answer),
        (
            "/v2/models/dummy/infer",
            lambda texts: {"inputs": [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}]},
            lambda answer: answer["outputs"][0]["data"],
        ),
    ],
    ids=["native", "tei", "v2"],
)
def test_a_large_answer_is_written_beside_the_event_loop(
    make_call: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch, path: str, body: Any, many: Any
) -> None:
    """Some hundred milliseconds for a thousand texts over many labels, in which nobody else is answered."""
    threads = []

    def write(answered: Answered, make: Callable[[], Any]) -> Any:
        def noted() -> Any:
            threads.append(threading.current_thread())
            return make()

        return written(answered, noted)

    for module in (native, tei, inference_v2):
        monkeypatch.setattr(module, "written", write)
    call = make_call(DummyEngine())
    few, lots = (call.post(path, body(["refund"] * number)).json for number in (2, 1000))
    small, large = threads
    assert small is threading.current_thread()
    assert large is not small
    assert len(many(lots)) == 500 * len(many(few))


def test_one_text_and_a_list_are_answered_in_the_same_form(call: Caller, bundle: Bundle) -> None:
    """A caller that goes from one text to several must not need another parser."""
    reply = call.post("/v1/predict", {"text": ["refund", "broken thanks"]}).json
    assert reply == {
        "answers": bundle.predict(["refund", "broken thanks"]),
        "truncated": [False, False],
        "model": {"name": "toy", "version": "1", "precision": "fp32"},
    }
    assert call.post("/v1/predict", {"text": "refund"}).json["answers"] == reply["answers"][:1]


def test_raw_gives_the_logits_beside_the_answers(call: Caller, bundle: Bundle) -> None:
    """Probabilities in a field called logits would be calibrated twice."""
    reply = call.post("/v1/predict", {"text": ["refund", "thanks"], "raw": True}).json
    logits = bundle.logits(["refund", "thanks"])
    assert [row["intent"] for row in reply["logits"]] == logits["intent"].tolist()
    assert list(reply["logits"][0]) == ["intent", "topics", "urgency"]
    assert reply["answers"] == bundle.predict(["refund", "thanks"])


def test_pairs_are_lists_of_two(pair_bundle_folder: Path, make_call: Callable[..., Caller]) -> None:
    """Two strings in one list are two texts, not a pair: the error must say so instead of answering."""
    bundle = Bundle.load(pair_bundle_folder)
    call = make_call(DummyEngine(bundle))
    reply = call.post("/v1/predict", {"text": [["refund", "thanks"]]})
    assert reply.json["answers"] == bundle.predict([("refund", "thanks")])
    refused = call.post("/v1/predict", {"text": ["refund", "thanks"]})
    assert refused.status == 422
    assert "premise, hypothesis" in refused.json["error"]["message"]


def test_truncated_texts_are_marked(call: Caller) -> None:
    """The caller cannot count tokens; an answer for half a text has to say so."""
    assert call.post("/v1/predict", {"text": ["refund", "refund " * 30]}).json["truncated"] == [False, True]


def test_answers_name_their_model_their_times_and_their_request(call: Caller) -> None:
    """After a hot swap only the answer itself can tell which model gave it."""
    headers = call.post("/v1/predict", {"text": "refund"}, x_request_id="abc-1").headers
    assert headers["x-request-id"] == "abc-1"
    assert [headers[f"x-model-{name}"] for name in ("name", "version", "precision")] == ["toy", "1", "fp32"]
    number = r"\d+\.\d{3}"
    assert re.fullmatch(
        f"queue;dur={number}, tokenise;dur={number}, run;dur={number}, total;dur={number}", headers["server-timing"]
    )


def test_a_swapped_bundle_is_not_kept_for_the_headers_of_its_answers(make_call: Callable[..., Caller]) -> None:
    """Until the next request comes, which may be for hours, there would be two models in memory."""
    engine = DummyEngine()
    call = make_call(engine)
    assert call.post("/v1/predict", {"text": "refund"}).headers["x-model-version"] == "1"
    old = weakref.ref(engine.bundle)
    engine.bundle = dummy_bundle(version="2")
    gc.collect()
    assert old() is None
    assert call.post("/v1/predict", {"text": "refund"}).headers["x-model-version"] == "2"


def test_a_name_beyond_ascii_cannot_break_the_answers_head(
    bundle_folder: Path, edit_manifest: Callable[..., None], make_call: Callable[..., Caller]
) -> None:
    """A line feed in a header splits the answer in two; other letters make the server drop it."""
    edit_manifest(bundle_folder, name="klein\r\nx: 1 ü")
    call = make_call(DummyEngine(Bundle.load(bundle_folder)))
    reply = call.post("/v1/predict", {"text": "refund"})
    assert reply.headers["x-model-name"] == "klein%0D%0Ax: 1 %C3%BC"
    assert reply.json["model"]["name"] == "klein\r\nx: 1 ü"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\nb", "ü"])
def test_a_request_id_that_could_break_a_log_line_is_replaced(call: Caller, given: str) -> None:
    """The id goes into headers and logs as it came: nothing but a plain word may."""
    made = call.post("/v1/predict", {"text": "refund"}, x_request_id=given).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", made)


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (b"{", 400, "invalid_json", "not JSON"),
        (b"", 400, "invalid_json", "not JSON"),
        (b'{"text": "\xff"}', 400, "invalid_json", "not UTF-8"),
        (b'{"text": "\\ud800"}', 400, "invalid_json", "not JSON"),
        (b'{"text": NaN}', 400, "invalid_json", "not JSON"),
        (b'{"text": "a", "top_k": 1e999}', 422, "invalid_request", "out of range"),
        (b'{"text": "a", "top_k": ' + b"9" * 5000 + b"}", 422, "invalid_request", "top_k"),
        (b'{"text": ' + b"[" * 100_000, 400, "too_deep", "100001 brackets"),
        (b'{"text": ' + b'{"a":' * 100_000, 400, "too_deep", "100001 brackets"),
        (b"[]", 422, "invalid_request", "object"),
        (b"{}", 422, "invalid_request", "`text`"),
        (b'{"text": 3}', 422, "invalid_request", "$.text"),
        (b'{"text": []}', 422, "invalid_request", "length >= 1"),
        (b'{"text": [["a", "b", "c"]]}', 422, "invalid_request", "length 2"),
        (b'{"text": "refund", "topk": 1}', 422, "invalid_request", "`topk`"),
        (b'{"text": "refund", "top_k": 0}', 422, "invalid_request", "$.top_k"),
        (b'{"text": "refund", "top_k": 1.5}', 422, "invalid_request", "$.top_k"),
        (b'{"text": "refund", "tasks": ["tone"]}', 422, "invalid_request", "intent, topics, urgency"),
        (b'{"text": "refund", "tasks": []}', 422, "invalid_request", "$.tasks"),
        (b'{"text": ["refund", " "]}', 422, "invalid_request", "text 1 is empty"),
        (b'"' + b"x" * MAX_BODY + b'"', 413, "too_large", "larger than"),
        (b'{"text": "' + b"x" * 40_000 + b'"}', 413, "too_large", "text 0 has 40000 characters"),
        (b'{"text": [' + b'"a",' * 2000 + b'"a"]}', 413, "too_large", "2001 texts"),
        (b'{"text": "poison"}', 500, "model_failed", "not numbers"),
    ],
    ids=lambda value: repr(value)[:32],
)
def test_every_refusal_is_json_with_a_code(call: Caller, body: bytes, status: int, code: str, message: str) -> None:
    """A caller branches on the code; a 500 for a caller's mistake wakes the wrong people."""
    reply = call.post("/v1/predict", body)
    error = reply.json["error"]
    assert (reply.status, error["code"]) == (status, code)
    assert message in error["message"]
    assert call.post("/v1/predict", {"text": "refund"}).status == 200


@pytest.mark.parametrize(
    ("failure", "status", "code", "retry_after"),
    [
        (Overloaded(2.1), 429, "overloaded", "3"),
        (Overloaded(0.01), 429, "overloaded", "1"),
        (NotReady("the bundle is being loaded"), 503, "not_ready", "1"),
        (Expired("too late"), 504, "deadline_expired", None),
        (LaneFailed("the model hung"), 500, "model_failed", None),
        (BundleError("not numbers"), 500, "model_failed", None),
        (ZeroDivisionError("secret path"), 500, "internal_error", None),
    ],
    ids=repr,
)
def test_what_the_engine_raises_has_its_status(
    call: Caller, engine: DummyEngine, failure: Exception, status: int, code: str, retry_after: str | None
) -> None:
    """Clients retry 429 and 503 by the header; a 500 for overload makes them retry at once and harder."""
    engine.failure = lambda number, work: failure
    reply = call.post("/v1/predict", {"text": "refund"})
    assert (reply.status, reply.json["error"]["code"]) == (status, code)
    assert reply.headers.get("retry-after") == retry_after
    assert "secret" not in reply.json["error"]["message"]


def test_the_body_is_refused_by_its_length_before_it_is_read(call: Caller) -> None:
    """Reading a gigabyte in order to refuse it is what the limit is there against."""
    reply = call("POST", "/v1/predict", headers={"content-length": str(MAX_BODY + 1)}, chunks=[])
    assert reply.status == 413


def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large(call: Caller) -> None:
    """Chunked bodies name no length: counting has to happen while they come."""
    reply = call("POST", "/v1/predict", chunks=[b"x" * (MAX_BODY // 2)] * 3 + [b"never read"] * 1000)
    assert (reply.status, reply.json["error"]["code"]) == (413, "too_large")


def test_a_body_in_chunks_is_put_together(call: Caller) -> None:
    """A chunk that is lost or doubled gives another text, or none."""
    assert call("POST", "/v1/predict", chunks=[b'{"te', b"", b'xt": "ref', b'und"}']).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": 'Application/JSON;charset="UTF-8"'}, 200),
        ({"content-type": "application/vnd.api+json"}, 200),
        ({"content-type": "application/json; charset=latin-1"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "identity"}, 200),
    ],
    ids=repr,
)
def test_only_json_is_taken_for_json(call: Caller, headers: dict[str, str], status: int) -> None:
    """A web page may send forms and plain text to any server without asking; JSON it may not."""
    assert call("POST", "/v1/predict", {"text": "refund"}, headers=headers).status == status


def test_a_body_without_a_content_type_is_read_as_json(call: Caller) -> None:
    """Some clients name none."""
    assert call("POST", "/v1/predict", chunks=[b'{"text": "refund"}']).status == 200


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 10.0), ("250", 0.25), ("999999999999", 60.0), ("60001", 60.0), ("1", 0.001)]
)
def test_the_deadline_is_the_callers_within_the_servers_maximum(
    call: Caller, engine: DummyEngine, header: str | None, seconds: float
) -> None:
    """A deadline that is read in other units, or not cut, keeps dead work in the queue."""
    engine.failure = lambda number, work: Overloaded(1.0)
    before = time.monotonic()
    call("POST", "/v1/predict", {"text": "refund"}, headers={} if header is None else {"x-request-timeout-ms": header})
    assert before + seconds <= engine.received[0].deadline <= time.monotonic() + seconds


@pytest.mark.parametrize("header", ["", "0", "-5", "1.5", "soon", "1" * 30, "²"])
def test_a_deadline_that_is_no_number_is_refused(call: Caller, header: str) -> None:
    """Ignored, the caller would wait for ten seconds in the belief that it is one."""
    reply = call("POST", "/v1/predict", {"text": "refund"}, headers={"x-request-timeout-ms": header})
    assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_header")


def test_unknown_paths_and_methods_are_json_too(call: Caller) -> None:
    """Half of the errors in another form break every client's parser."""
    missing = call.get("/nowhere")
    assert (missing.status, missing.json["error"]["code"]) == (404, "not_found")
    refused = call.get("/v1/predict")
    assert (refused.status, refused.json["error"]["code"]) == (405, "method_not_allowed")
    assert refused.headers["allow"] == "POST"
    assert call.post("/livez", {}).headers["allow"] == "GET, HEAD"
    assert call("HEAD", "/livez").status == 200


@pytest.mark.parametrize(
    ("state", "live", "ready", "started"),
    [("starting", 200, 503, 503), ("ready", 200, 200, 200), ("draining", 200, 503, 200), ("failed", 503, 503, 200)],
)
def test_probes_tell_the_engines_state(
    call: Caller, engine: DummyEngine, state: State, live: int, ready: int, started: int
) -> None:
    """A liveness probe that follows readiness makes the orchestrator kill a server that drains."""
    engine.state = state
    assert [call.get(path).status for path in ("/livez", "/readyz", "/startupz")] == [live, ready, started]
    if state in ("starting", "draining"):
        assert call.get("/readyz").headers["retry-after"] == "1"


def test_info_tells_what_is_served_and_what_a_request_may_cost(call: Caller, bundle: Bundle) -> None:
    """A client sizes its batches by it."""
    info = call.get("/v1/info").json
    assert [task["name"] for task in info["tasks"]] == ["intent", "topics", "urgency"]
    assert info["tasks"][0]["labels"] == ["billing", "defect", "praise"]
    assert info["artifact"]["sha256"] == bundle.artifact.sha256
    assert (info["text_columns"], info["max_length"]) == (["text"], 8)
    assert info["limits"]["texts"] == Limits().texts


def test_before_the_bundle_is_loaded_everything_says_so(make_call: Callable[..., Caller]) -> None:
    """The port listens before there is a bundle: nothing may answer 500, and no document may fail."""
    call = make_call(Front())
    assert call.post("/v1/predict", {"text": "refund"}).status == 503
    assert call.get("/v1/info").status == 503
    assert call.post("/predict", {"inputs": "refund"}).json["error_type"] == "Unhealthy"
    assert call.get("/v2/models/toy").status == 503
    assert call.get("/openapi.json").status == 200
    assert b"compressor_ready 0.0" in call.get("/metrics").body
