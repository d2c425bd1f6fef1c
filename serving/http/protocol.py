"""The bodies of our own API: requests, answers and facts, each described where it is declared."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from serving.manifest import TaskType

Texts = Annotated[
    list[str | tuple[str, str]],
    Meta(min_length=1, description="Several texts, or several pairs for a model that reads pairs."),
]
TopK = Annotated[int, Meta(ge=1)] | Annotated[float, Meta(ge=1, multiple_of=1)]
"""In JSON, 2.0 is a whole number, too."""


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/predict`."""

    text: Annotated[str | Texts, Meta(description="One text, a list of texts, or a list of pairs.")]
    tasks: Annotated[
        Annotated[list[str], Meta(min_length=1)] | None, Meta(description="The tasks to answer; all when left out.")
    ] = None
    top_k: Annotated[TopK | None, Meta(description="Labels to show under `scores`; all when left out.")] = None
    raw: Annotated[bool, Meta(description="Also give the logits, before temperature, softmax or sigmoid.")] = False


class ModelInfo(msgspec.Struct, frozen=True):
    """Which model gave an answer."""

    name: str
    version: str
    precision: str


class PredictResponse(msgspec.Struct, omit_defaults=True):
    """The answer of `POST /v1/predict`."""

    answers: Annotated[list[dict[str, dict[str, Any]]], Meta(description="Per text, from task name to answer.")]
    truncated: Annotated[list[bool], Meta(description="Per text, whether it was cut to the model's max_length.")]
    model: Annotated[ModelInfo, Meta(description="Which model answered.")]
    logits: Annotated[
        list[dict[str, list[float]]] | None, Meta(description="Per text, from task name to logits; only with `raw`.")
    ] = None


class Error(msgspec.Struct, frozen=True):
    """What went wrong: a code to branch on, and a message to read."""

    code: str
    message: str


class ErrorResponse(msgspec.Struct, frozen=True):
    """The body of every answer that is not 2xx, of our own routes."""

    error: Error


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of a probe."""

    status: str
    model: ModelInfo | None = None


class TaskInfo(msgspec.Struct, frozen=True):
    """One task of the model."""

    name: str
    type: TaskType
    labels: tuple[str, ...]
    range: tuple[float, float]
    thresholds: tuple[float, ...]


class ArtifactInfo(msgspec.Struct, frozen=True):
    """The file that answers."""

    file: str
    sha256: str
    bytes: int
    passed: Annotated[bool, Meta(description="Whether it passed every gate when it was made.")]
    batch_invariant: Annotated[bool | None, Meta(description="Whether neighbours in a batch change no answer.")]


class LimitsInfo(msgspec.Struct, frozen=True):
    """What one request may cost."""

    body_bytes: int
    texts: int
    characters: int
    json_depth: int
    default_deadline_ms: int
    max_deadline_ms: int


class InfoResponse(msgspec.Struct, frozen=True):
    """The answer of `GET /v1/info`."""

    model: ModelInfo
    artifact: ArtifactInfo
    tasks: tuple[TaskInfo, ...]
    text_columns: Annotated[tuple[str, ...], Meta(description="Two for a model that reads pairs.")]
    max_length: Annotated[int, Meta(description="Tokens per text or pair; longer ones are cut.")]
    limits: LimitsInfo
    server_version: str
