"""`GET /openapi.json`: OpenAPI 3.1 made from the structs that the handlers decode and encode.

It describes the loaded bundle: whether texts or pairs are read, and which tasks there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from serving.bundle import Bundle
from serving.engine.contract import Engine, NotReady
from serving.http.inference_v2 import InferError, InferRequest
from serving.http.native import server_version
from serving.http.openapi_table import ERRORS, HEADERS, PARAMETERS, Operation, operations
from serving.http.protocol import ErrorResponse, InfoResponse, PredictRequest, PredictResponse, Status
from serving.http.request import Reply, Request, json_reply
from serving.http.tei import TeiError, TeiPrediction, TeiRequest

if TYPE_CHECKING:
    from serving.operations.settings import ServerSettings

Schema = dict[str, Any]
_STRUCTS = (
    PredictRequest, PredictResponse, ErrorResponse, InfoResponse, Status, TeiRequest, TeiPrediction, TeiError,
    InferRequest, InferError,
)  # fmt: skip
_ERROR_SCHEMAS = {"native": "ErrorResponse", "tei": "TeiError", "v2": "InferError"}
_NOT_BLANK = r"[^\s\u001c-\u001f\u0085\ufeff]"


class Description:
    """The handler of `GET /openapi.json`."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        """Describe what the engine serves at the moment of asking."""
        self._engine = engine
        self._settings = settings

    async def show(self, request: Request) -> Reply:
        """The document."""
        try:
            bundle = self._engine.bundle
        except NotReady:
            bundle = None
        return json_reply(describe(self._settings, bundle))


def describe(settings: ServerSettings, bundle: Bundle | None) -> Schema:
    """The OpenAPI document.

    Args:
        settings: whose limits stand in the schemas, and whether keys are asked for.
        bundle: whose tasks and text columns stand in them; None for any.
    """
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    if bundle is not None:
        _narrow(schemas, settings, bundle)
    components: Schema = {"schemas": schemas, "headers": HEADERS, "parameters": PARAMETERS}
    if settings.keys_file is not None:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    paths: dict[str, Schema] = {}
    for operation in operations(bundle, settings):
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, settings.keys_file is not None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Compressor",
            "version": server_version(),
            "description": "Answers of a compact text classifier.",
        },
        "paths": paths,
        "components": components,
    }


def _operation(operation: Operation, has_keys: bool) -> Schema:
    made: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {"200": _success(operation)},
    }
    statuses = operation.errors if has_keys or not operation.needs_key else [s for s in operation.errors if s != 401]
    for status in statuses:
        made["responses"][str(status)] = _error(status, operation.form)
    if operation.parameters:
        made["parameters"] = [
            name if isinstance(name, dict) else {"$ref": f"#/components/parameters/{name}"}
            for name in operation.parameters
        ]
    if operation.request is not None:
        schema = {"$ref": f"#/components/schemas/{operation.request}"}
        content = {"application/json": {"schema": schema, "examples": dict(operation.examples)}}
        made["requestBody"] = {"required": True, "content": content}
    if has_keys and operation.needs_key:
        made["security"] = [{"bearer": []}, {"header": []}]
    return made


def _success(operation: Operation) -> Schema:
    answer: Schema = {
        "description": operation.answer,
        "headers": {"x-request-id": {"$ref": "#/components/headers/x-request-id"}},
        "content": operation.content,
    }
    if operation.request is not None:
        names = ("server-timing", "x-model-name", "x-model-version", "x-model-precision")
        answer["headers"] |= {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return answer


def _error(status: int, form: str) -> Schema:
    headers = ["x-request-id"]
    if status in (429, 503):
        headers.append("retry-after")
    schema = {"$ref": f"#/components/schemas/{_ERROR_SCHEMAS[form]}"}
    return {
        "description": ERRORS[status],
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {"application/json": {"schema": schema}},
    }


def _narrow(schemas: dict[str, Schema], settings: ServerSettings, bundle: Bundle) -> None:
    """Say what this bundle reads: texts or pairs, its tasks, and the limits."""
    limits = settings.limits
    text = {"type": "string", "minLength": 1, "maxLength": limits.characters, "pattern": _NOT_BLANK}
    is_pair = len(bundle.manifest.inputs.text_columns) == 2
    pair = {"type": "array", "items": text, "minItems": 2, "maxItems": 2}
    single = {"type": "array", "items": text, "minItems": 1, "maxItems": 1}
    one = pair if is_pair else text
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": limits.texts}
    schemas["PredictRequest"]["properties"]["text"] |= {"anyOf": [many] if is_pair else [text, many]}
    batch = {"type": "array", "items": pair if is_pair else single, "minItems": 1, "maxItems": limits.texts}
    schemas["TeiRequest"]["properties"]["inputs"] |= {"anyOf": [pair, batch] if is_pair else [text, single, batch]}
    side = bundle.manifest.inputs.truncation_side
    schemas["TeiRequest"]["properties"]["truncation_direction"] |= {
        "anyOf": [{"enum": [side, side.capitalize()]}, {"type": "null"}]
    }
    names = [task.name for task in bundle.manifest.tasks]
    tasks = {"type": "array", "items": {"enum": names}, "minItems": 1}
    schemas["PredictRequest"]["properties"]["tasks"] |= {"anyOf": [tasks, {"type": "null"}]}
