"""The operations of the OpenAPI document: a table with one row per path and method."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from serving.bundle import Bundle
from serving.http.errors import Form
from serving.http.limits import DEADLINE_HEADER

if TYPE_CHECKING:
    from serving.operations.settings import ServerSettings

Schema = dict[str, Any]

ERRORS = {
    400: "The body is no JSON, nests too deep, or a header cannot be read.",
    401: "The request has no API key that this server knows.",
    404: "There is no such model or version.",
    408: "The request did not arrive in time.",
    413: "Too many bytes, texts or characters in one request.",
    415: "The body is said to be something else than JSON.",
    422: "The body is JSON, but no such request; the message names the field.",
    424: "The model failed.",
    429: "The deadline could not be met, the queue is full, or the key's rate is spent. Try again after retry-after.",
    500: "The server or the model failed.",
    503: "The server starts or drains.",
    504: "The deadline passed before there was an answer.",
}
HEADERS: dict[str, Schema] = {
    "x-request-id": {"description": "The caller's id, or one made here.", "schema": {"type": "string"}},
    "retry-after": {"description": "Whole seconds.", "schema": {"type": "integer", "minimum": 1}},
    "server-timing": {
        "description": "Milliseconds in the queue, in the tokenizer, in the model, and in all.",
        "schema": {"type": "string"},
        "example": "queue;dur=0.100, tokenise;dur=0.060, run;dur=3.200, total;dur=3.600",
    },
    "x-model-name": {"description": "Percent-encoded where it is not ASCII.", "schema": {"type": "string"}},
    "x-model-version": {"description": "Of the bundle that answered.", "schema": {"type": "string"}},
    "x-model-precision": {"description": "Of the artifact that answered.", "schema": {"type": "string"}},
}
PARAMETERS: dict[str, Schema] = {
    "deadline": {
        "name": DEADLINE_HEADER.decode(),
        "in": "header",
        "description": "Milliseconds after which the answer is worth nothing (504); cut to the server's maximum.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10**17},
    },
    "request-id": {
        "name": "x-request-id",
        "in": "header",
        "description": "Comes back in the answer and in the log, if it is 1 to 128 letters, digits and ._:/+=@-",
        "schema": {"type": "string"},
    },
}
_CALL = ("deadline", "request-id")
_CALL_ERRORS = (400, 401, 408, 413, 415, 422, 429, 500, 503, 504)


class Operation(NamedTuple):
    """One row; `content` is the 200 answer's, `request` the name of the body's schema."""

    path: str
    method: str
    name: str
    summary: str
    answer: str
    content: Schema
    errors: tuple[int, ...] = ()
    request: str | None = None
    examples: Mapping[str, Schema] = MappingProxyType({})
    parameters: tuple[str | Schema, ...] = ()
    form: Form = "native"
    needs_key: bool = False


def operations(bundle: Bundle | None, settings: ServerSettings) -> list[Operation]:
    """All rows, for a bundle (None: for any)."""
    rows = [*_native(bundle), _tei(bundle), *_probes(), *_v2(bundle)]
    if settings.page:
        content = {"text/html": {"schema": {"type": "string"}}}
        rows.append(Operation("/", "get", "page", "A page to try texts by hand", "The page.", content))
    return rows


def _native(bundle: Bundle | None) -> list[Operation]:
    return [
        Operation(
            "/v1/predict", "post", "predict", "Answer texts", "Per text and task, in the order of the texts.",
            _json("PredictResponse"), _CALL_ERRORS, "PredictRequest", _examples(bundle, "text"), _CALL, needs_key=True,
        ),
        Operation(
            "/v1/info", "get", "info", "What is served, and what a request may cost", "Facts.", _json("InfoResponse"),
            (401, 503), needs_key=True,
        ),
    ]  # fmt: skip


def _tei(bundle: Bundle | None) -> Operation:
    predictions = {"type": "array", "items": {"$ref": "#/components/schemas/TeiPrediction"}}
    schema = {"anyOf": [predictions, {"type": "array", "items": predictions}]}
    tasks = [] if bundle is None else [task.name for task in bundle.manifest.tasks]
    task: Schema = {
        "name": "task",
        "in": "query",
        "description": "Which task, where the model has several.",
        "required": len(tasks) > 1,
        "schema": {"enum": tasks} if tasks else {"type": "string"},
    }
    return Operation(
        "/predict", "post", "tei_predict", "Answer as text-embeddings-inference does",
        "Labels from the highest score down: one list, or one per input of a batch.",
        {"application/json": {"schema": schema}}, (400, 401, 408, 413, 415, 422, 424, 429, 503, 504), "TeiRequest",
        _examples(bundle, "inputs"), (*_CALL, task), "tei", needs_key=True,
    )  # fmt: skip


def _probes() -> list[Operation]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    anything = {"application/json": {"schema": {"type": "object"}}}
    return [
        Operation("/livez", "get", "live", "Whether the process works", "It does.", _json("Status"), (503,)),
        Operation("/readyz", "get", "ready", "Whether new work is taken", "It is.", _json("Status"), (503,)),
        Operation("/startupz", "get", "started", "Whether the bundle is loaded", "It is.", _json("Status"), (503,)),
        Operation("/metrics", "get", "metrics", "For Prometheus", "Figures.", text),
        Operation("/openapi.json", "get", "openapi", "This document", "OpenAPI 3.1.", anything),
    ]


def _v2(bundle: Bundle | None) -> list[Operation]:
    anything = {"application/json": {"schema": {"type": "object"}}}
    both = anything | {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    model = _path_parameter("name", None if bundle is None else bundle.manifest.name)
    version = _path_parameter("version", None if bundle is None else bundle.manifest.version)
    rows = [
        Operation("/v2", "get", "v2_server", "Server metadata", "Facts.", anything, (401,), form="v2", needs_key=True),
        Operation("/v2/health/live", "get", "v2_live", "Liveness", "It lives.", anything, (503,), form="v2"),
        Operation("/v2/health/ready", "get", "v2_ready", "Readiness", "It is ready.", anything, (503,), form="v2"),
    ]
    for path, parameters, mark in (
        ("/v2/models/{name}", (model,), ""),
        ("/v2/models/{name}/versions/{version}", (model, version), "_of_version"),
    ):
        errors = (401, 404, 503)
        rows += [
            Operation(
                path, "get", f"v2_model{mark}", "Model metadata", "Inputs and outputs.", anything, errors,
                parameters=parameters, form="v2", needs_key=True,
            ),
            Operation(
                f"{path}/ready", "get", f"v2_model_ready{mark}", "Model readiness", "It is ready.", anything, errors,
                parameters=parameters, form="v2", needs_key=True,
            ),
            Operation(
                f"{path}/infer", "post", f"v2_infer{mark}", "Inference", "Output tensors, in JSON or binary.", both,
                (404, *_CALL_ERRORS), "InferRequest", _infer_examples(bundle), (*_CALL, *parameters), "v2",
                needs_key=True,
            ),
        ]  # fmt: skip
    return rows


def _json(schema: str) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _path_parameter(name: str, value: str | None) -> Schema:
    schema = {"type": "string"} if value is None else {"enum": [value]}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _examples(bundle: Bundle | None, field: str) -> dict[str, Schema]:
    if bundle is not None and len(bundle.manifest.inputs.text_columns) == 2:
        return {"pairs": {"value": {field: [["a man sleeps", "nobody is awake"]]}}}
    batch: list[Any] = ["my card never arrived", "thank you"]
    several = batch if field == "text" else [[text] for text in batch]
    return {"one": {"value": {field: "my card never arrived"}}, "several": {"value": {field: several}}}


def _infer_examples(bundle: Bundle | None) -> dict[str, Schema]:
    columns = ("text",) if bundle is None else bundle.manifest.inputs.text_columns
    inputs = [{"name": name, "shape": [1], "datatype": "BYTES", "data": ["my card"]} for name in columns]
    return {"one": {"value": {"inputs": inputs}}}
