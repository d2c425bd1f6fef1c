"""The OpenAPI document tells the truth: schemathesis makes requests from it and holds every answer against it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

from serving.bundle import Bundle
from serving.engine.dummy import DummyEngine
from serving.http.app import create_app
from serving.operations.settings import Limits, ServerSettings
from tests.serving.http.conftest import Caller

SMALL = Limits(texts=4, characters=40)
"""Small enough to be reached by chance, and quick to make examples of."""


def hold_against_the_document(app: Any, examples: int) -> set[str]:
    """Run requests against every operation; the names of those that were tried."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    tried = set()
    for found in schema.get_all_operations():
        operation = cast(Any, found).ok()
        tried.add(operation.label)
        _try(operation, examples)
    return tried


def _try(operation: Any, examples: int) -> None:
    acceptance: list[Any] = [check for check in CHECKS.get_all() if check.__name__ == "positive_data_acceptance"]

    def run(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(excluded_checks=acceptance if _is_beyond_schemas(case) else [])

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        number = examples if operation.method == "post" else 1 + examples // 10
        quiet = settings(
            max_examples=number, database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        with contextlib.suppress(Unsatisfiable):
            quiet(given(case=operation.as_strategy(generation_mode=mode))(run))()


def _is_beyond_schemas(case: schemathesis.Case[Any]) -> bool:
    """Whether a valid request may be refused: a shape must fit its data, and `truncate: false` counts tokens."""
    refuses_long_texts = isinstance(case.body, dict) and case.body.get("truncate") is False
    return case.path.endswith("/infer") or (case.path == "/predict" and refuses_long_texts)


def test_every_answer_is_as_the_document_says(bundle: Bundle) -> None:
    """A client that was generated from the document fails on the first answer that is not in it."""
    tried = hold_against_the_document(create_app(DummyEngine(bundle), ServerSettings(limits=SMALL)), examples=5)
    assert len(tried) == 17
    assert {"POST /v1/predict", "POST /predict", "POST /v2/models/{name}/infer"} < tried


@pytest.mark.slow
def test_every_answer_is_as_the_document_says_for_long(bundle: Bundle) -> None:
    """The same with many more requests."""
    hold_against_the_document(create_app(DummyEngine(bundle), ServerSettings(limits=SMALL)), examples=100)


@pytest.mark.slow
def test_a_document_of_pairs_is_true_as_well(pair_bundle_folder: Path) -> None:
    """What is valid depends on the bundle: a pair where texts are read is not."""
    app = create_app(DummyEngine(Bundle.load(pair_bundle_folder)), ServerSettings(page=False))
    hold_against_the_document(app, examples=40)


def test_keys_stand_in_the_document_where_they_are_asked_for(make_call: Callable[..., Caller], tmp_path: Path) -> None:
    """A generated client would not know how to present one."""
    (tmp_path / "keys").write_text("")
    document = make_call(DummyEngine(), keys_file=tmp_path / "keys").get("/openapi.json").json
    assert document["paths"]["/v1/predict"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert "401" in document["paths"]["/v1/predict"]["post"]["responses"]
    assert "security" not in document["paths"]["/livez"]["get"]


def test_every_example_is_answered(call: Caller) -> None:
    """People copy the examples first."""
    document = call.get("/openapi.json").json
    for path, suffix in (("/v1/predict", ""), ("/predict", "?task=intent"), ("/v2/models/{name}/infer", "")):
        examples = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        assert examples
        for example in examples.values():
            assert call.post(path.replace("{name}", "toy") + suffix, example["value"]).status == 200
