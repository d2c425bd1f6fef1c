"""The Open Inference Protocol: metadata and inference in JSON and in binary."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from serving.bundle import Bundle
from serving.engine.contract import Overloaded
from serving.engine.dummy import DummyEngine
from tests.serving.http.conftest import Answer, Caller

INFER = "/v2/models/toy/infer"


def tensor(data: object, name: str = "text", **changes: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data} | changes  # type: ignore[arg-type]


def pack(texts: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def infer_binary(call: Caller, raw: bytes, size: int, shape: list[int], **more: Any) -> Answer:
    inputs = [{"name": "text", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": size}}]
    head = msgspec.json.encode({"inputs": inputs} | more)
    return call("POST", INFER, chunks=[head + raw], headers={"inference-header-content-length": str(len(head))})


def outputs(reply: Answer) -> dict[str, Any]:
    return {output["name"]: output for output in reply.json["outputs"]}


def test_health_and_metadata_have_the_protocols_form(call: Caller, engine: DummyEngine) -> None:
    """Orchestrators that speak the protocol find the model by it."""
    assert call.get("/v2").json["extensions"] == ["binary_tensor_data"]
    assert call.get("/v2/health/live").json == {"live": True}
    assert call.get("/v2/health/ready").json == {"ready": True}
    for path in ("/v2/models/toy", "/v2/models/toy/versions/1"):
        assert call.get(f"{path}/ready").status == 200
        found = call.get(path).json
        assert (found["name"], found["versions"]) == ("toy", ["1"])
        assert found["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        assert {"name": "intent.logits", "datatype": "FP32", "shape": [-1, 3]} in found["outputs"]
        assert {"name": "intent.label", "datatype": "BYTES", "shape": [-1]} in found["outputs"]
        assert found["parameters"]["topics.labels"] == ["money", "goods"]
    engine.state = "draining"
    assert call.get("/v2/health/ready").status == call.get("/v2/models/toy/ready").status == 503
    assert call.get("/v2/health/live").status == 200


def test_json_in_and_out_equals_the_bundles_own_answers(call: Caller, bundle: Bundle) -> None:
    """Another protocol must not be another model."""
    texts = ["refund", "broken thanks", "please"]
    reply = call.post(INFER, {"id": "7", "inputs": [tensor(texts)]})
    found, logits, answers = outputs(reply), bundle.logits(texts), bundle.predict(texts)
    assert (reply.json["id"], reply.json["model_name"], reply.json["model_version"]) == ("7", "toy", "1")
    assert found["intent.logits"]["shape"] == [3, 3]
    assert found["intent.logits"]["data"] == logits["intent"].ravel().tolist()
    assert found["intent.label"]["data"] == [answer["intent"]["label"] for answer in answers]
    assert found["urgency.value"]["data"] == [answer["urgency"]["value"] for answer in answers]
    present = np.array(found["topics.present"]["data"]).reshape(3, 2).tolist()
    assert [[label for label, here in zip(("money", "goods"), row, strict=True) if here] for row in present] == [
        answer["topics"]["labels"] for answer in answers
    ]
    probability = dict(zip(("billing", "defect", "praise"), found["intent.probabilities"]["data"], strict=False))
    assert probability == answers[0]["intent"]["scores"]


def test_binary_in_and_out_equals_json(call: Caller) -> None:
    """The extension's layout: lengths before strings, tensors in the order of the outputs, sizes in the head."""
    texts = ["refund", "bröken thanks"]
    plain = outputs(call.post(INFER, {"inputs": [tensor(texts)]}))
    reply = infer_binary(call, pack(texts), len(pack(texts)), [2, 1], parameters={"binary_data_output": True})
    length = int(reply.headers["inference-header-content-length"])
    assert reply.headers["content-type"] == "application/octet-stream"
    raw, kinds = reply.body[length:], {"FP32": "<f4", "FP64": "<f8", "BOOL": "?"}
    for output in msgspec.json.decode(reply.body[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        part, raw = raw[:size], raw[size:]
        expected = plain[output["name"]]
        assert output["shape"] == expected["shape"]
        if output["datatype"] == "BYTES":
            assert part == pack(expected["data"])
        else:
            assert np.frombuffer(part, kinds[output["datatype"]]).tolist() == expected["data"]
    assert raw == b""


def test_only_the_wanted_outputs_are_computed_and_sent(call: Caller, engine: DummyEngine) -> None:
    """Each in the form that was asked for it alone."""
    wanted = [{"name": "urgency.value"}, {"name": "intent.label", "parameters": {"binary_data": True}}]
    reply = call.post(INFER, {"inputs": [tensor(["refund"])], "outputs": wanted})
    head = msgspec.json.decode(reply.body[: int(reply.headers["inference-header-content-length"])])
    assert [output["name"] for output in head["outputs"]] == ["urgency.value", "intent.label"]
    assert "data" in head["outputs"][0]
    assert "data" not in head["outputs"][1]
    assert engine.received[0].tasks == ("urgency", "intent")


def test_pairs_come_as_two_inputs_in_any_order(pair_bundle_folder: Path, make_call: Callable[..., Caller]) -> None:
    """The columns are known by name: by position the pair would be turned around."""
    bundle = Bundle.load(pair_bundle_folder)
    call = make_call(DummyEngine(bundle))
    inputs = [tensor(["thanks"], "hypothesis"), tensor(["refund"], "premise")]
    reply = outputs(call.post(INFER, {"inputs": inputs}))
    assert reply["intent.logits"]["data"] == bundle.logits([("refund", "thanks")])["intent"][0].tolist()
    uneven = [tensor(["thanks", "x"], "hypothesis"), tensor(["refund"], "premise")]
    assert call.post(INFER, {"inputs": uneven}).status == 400


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([tensor(["a"], datatype="FP32")], "BYTES"),
        ([tensor(["a"], shape=[2])], "shape"),
        ([tensor(["a"], shape=[1, 1, 1])], "shape"),
        ([tensor(["a"], shape=[-1])], "shape"),
        ([tensor(["a"], shape=[10**15, 10**15])], "shape"),
        ([tensor(["a"], shape=[])], "shape"),
        ([tensor([])], "shape"),
        ([tensor(["a"], name="other")], "this model reads text"),
        ([], "this model reads text"),
        ([tensor(["a"]), tensor(["a"])], "this model reads text"),
        ([tensor(["a"]) | {"data": None}], "neither data"),
        ([tensor(["a"], parameters={"binary_data_size": 4})], "binary_data_size"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_tensors_that_do_not_fit_are_refused_in_the_protocols_form(call: Caller, inputs: object, message: str) -> None:
    """A shape that is taken on trust reads beyond the data, or answers texts that nobody sent."""
    reply = call.post(INFER, {"inputs": inputs})
    assert reply.status == 400
    assert message in reply.json["error"]


@pytest.mark.parametrize(
    ("raw", "size", "shape"),
    [
        (b"\x01\x00", 2, [1]),
        (b"\x05\x00\x00\x00ab", 6, [1]),
        (b"\x03\x00\x00\x00ab", 6, [1]),
        (b"\xff\xff\xff\xffab", 6, [1]),
        (pack(["ab"]), 5, [1]),
        (pack(["ab"]), 60, [1]),
        (pack(["ab"]), -1, [1]),
        (pack(["ab"]) + b"rest", 6, [1]),
        (pack(["ab"]), 6, [2]),
        (b"\x01\x00\x00\x00\xff", 5, [1]),
    ],
)
def test_binary_data_that_does_not_fit_is_refused(call: Caller, raw: bytes, size: int, shape: list[int]) -> None:
    """Lengths inside the data are the caller's word: none may be followed beyond its end."""
    assert infer_binary(call, raw, size, shape).status == 400


@pytest.mark.parametrize("length", ["-1", "x", "99999", "9" * 40, ""])
def test_a_head_longer_than_the_body_is_refused(call: Caller, length: str) -> None:
    """The header's number cuts the body in two."""
    body = msgspec.json.encode({"inputs": [tensor(["a"])]})
    assert call("POST", INFER, chunks=[body], headers={"inference-header-content-length": length}).status == 400


def test_other_models_versions_paths_and_outputs_are_not_found(call: Caller) -> None:
    """A name that is not looked at answers for a model that the caller did not mean."""
    for path in ("/v2/models/other", "/v2/models/toyota", "/v2/models/toy/versions/2", "/v2/models/toy/nothing"):
        reply = call.get(path)
        assert reply.status == 404
        assert list(reply.json) == ["error"]
    wrong = {"inputs": [tensor(["a"])], "outputs": [{"name": "mood"}]}
    assert "intent.logits" in call.post(INFER, wrong).json["error"]
    assert call.get(INFER).headers["allow"] == "POST"


def test_errors_of_the_engine_have_the_protocols_form_too(call: Caller, engine: DummyEngine) -> None:
    """And its own timeout parameter (microseconds) is a deadline."""
    engine.failure = lambda number, work: Overloaded(3.0)
    reply = call.post(INFER, {"inputs": [tensor(["a"])], "parameters": {"timeout": 250_000}})
    assert (reply.status, list(reply.json), reply.headers["retry-after"]) == (429, ["error"], "3")
    reply = call.post(INFER, {"inputs": [tensor(["a"])], "parameters": {"timeout": 9_000_000}})
    assert engine.received[1].deadline - engine.received[0].deadline > 8.0
