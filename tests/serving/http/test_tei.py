"""`POST /predict` keeps the shapes that text-embeddings-inference documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.bundle import Bundle
from serving.engine.contract import Expired, LaneFailed, Overloaded
from serving.engine.dummy import DummyEngine
from serving.http.errors import HttpError
from tests.serving.http.conftest import Caller


def test_one_input_gives_a_list_and_a_batch_gives_a_list_of_lists(call: Caller, bundle: Bundle) -> None:
    """Its clients index into the answer by how they asked."""
    one = call.post("/predict?task=intent", {"inputs": "refund"}).json
    scores = bundle.predict(["refund"], ["intent"])[0]["intent"]["scores"]
    assert one == [{"score": score, "label": label} for label, score in scores.items()]
    assert one == sorted(one, key=lambda prediction: -prediction["score"])
    assert call.post("/predict?task=intent", {"inputs": ["refund"]}).json == one
    batch = call.post("/predict?task=intent", {"inputs": [["refund"], ["broken thanks"]]}).json
    assert batch[0] == one
    assert len(batch) == 2
    assert call.post("/predict?task=intent", {"inputs": [["refund"]]}).json == [one]


def test_a_flat_list_of_two_is_a_pair(pair_bundle_folder: Path, make_call: Callable[..., Caller]) -> None:
    """That is how it is documented there; taken for two texts it would be answered wrongly in silence."""
    call = make_call(DummyEngine(Bundle.load(pair_bundle_folder)))
    pair = call.post("/predict", {"inputs": ["refund", "thanks"]}).json
    assert call.post("/predict", {"inputs": [["refund", "thanks"]]}).json == [pair]
    assert isinstance(pair[0], dict)


def test_two_texts_in_a_flat_list_are_refused_by_a_model_of_single_texts(call: Caller) -> None:
    """The caller meant a batch and must hear how to write one."""
    reply = call.post("/predict?task=intent", {"inputs": ["refund", "thanks"]})
    assert (reply.status, reply.json["error_type"]) == (422, "Validation")
    mixed = call.post("/predict?task=intent", {"inputs": ["refund", ["thanks"]]})
    assert mixed.status == 422
    assert '[["one"], ["two"]]' in mixed.json["error"]


def test_raw_scores_are_logits(call: Caller, bundle: Bundle) -> None:
    """A client that asks for raw scores puts its own softmax over them."""
    reply = call.post("/predict?task=topics", {"inputs": "refund", "raw_scores": True}).json
    logits = bundle.logits(["refund"], ["topics"])["topics"][0].tolist()
    assert {row["label"]: row["score"] for row in reply} == dict(zip(("money", "goods"), logits, strict=True))


def test_a_regression_scores_its_value_under_its_name(call: Caller, bundle: Bundle) -> None:
    """It has no labels; the value must come in the labels' units."""
    value = bundle.predict(["refund"], ["urgency"])[0]["urgency"]["value"]
    assert call.post("/predict?task=urgency", {"inputs": "refund"}).json == [{"score": value, "label": "urgency"}]


@pytest.mark.parametrize("path", ["/predict", "/predict?task=tone"])
def test_a_model_of_several_tasks_asks_which(call: Caller, path: str) -> None:
    """Answering the first task would be a guess that looks like an answer."""
    reply = call.post(path, {"inputs": "refund"})
    assert (reply.status, reply.json["error_type"]) == (422, "Validation")
    assert "intent, topics, urgency" in reply.json["error"]


def test_truncation_can_be_refused(call: Caller) -> None:
    """`truncate: false` says that half a text must not be answered."""
    long = {"inputs": "refund " * 30}
    assert call.post("/predict?task=intent", long).status == 200
    assert call.post("/predict?task=intent", long | {"truncate": True}).status == 200
    refused = call.post("/predict?task=intent", long | {"truncate": False})
    assert (refused.status, refused.json["error_type"]) == (413, "Validation")
    assert call.post("/predict?task=intent", long | {"truncation_direction": "Right"}).status == 200
    assert call.post("/predict?task=intent", long | {"truncation_direction": "Left"}).status == 422


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (Overloaded(1.0), 429, "Overloaded"),
        (LaneFailed("nan"), 424, "Backend"),
        (Expired("late"), 504, "Overloaded"),
        (ZeroDivisionError(), 424, "Backend"),
        (HttpError(400, "invalid_json", "x"), 400, "Validation"),
    ],
    ids=repr,
)
def test_errors_have_its_form_and_its_statuses(
    call: Caller, engine: DummyEngine, failure: Exception, status: int, kind: str
) -> None:
    """Its clients read `error_type` and retry by it."""
    engine.failure = lambda number, work: failure
    reply = call.post("/predict?task=intent", {"inputs": "refund"})
    assert (reply.status, reply.json["error_type"]) == (status, kind)
    assert set(reply.json) == {"error", "error_type"}
