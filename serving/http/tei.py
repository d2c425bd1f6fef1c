"""`POST /predict` as text-embeddings-inference documents it, so that its clients need only another address.

Source: the project's `docs/openapi.json` (PredictRequest, PredictResponse, ErrorResponse). A flat list of strings
is one input there (a pair when it holds two); a batch is a list of lists. Differences: `truncate` left out means
true, and false refuses a text that was too long; a model of several tasks needs `?task=`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from serving.answers import probabilities
from serving.engine.contract import Answered, Work
from serving.http.answering import Answering, Texts, written
from serving.http.errors import HttpError
from serving.http.limits import check_depth
from serving.http.request import Reply, Request
from serving.manifest import TaskSpec

Sequence = Annotated[list[str], Meta(min_length=1, max_length=2)]


class TeiRequest(msgspec.Struct):
    """The body of `POST /predict`."""

    inputs: Annotated[
        str | Annotated[list[str | Sequence], Meta(min_length=1)],
        Meta(description="One string; one pair of strings; or a batch of lists of one string or two."),
    ]
    raw_scores: Annotated[bool, Meta(description="Scores are logits.")] = False
    truncate: Annotated[bool | None, Meta(description="False: a text that is too long is refused.")] = None
    truncation_direction: Annotated[
        Literal["left", "right", "Left", "Right"] | None, Meta(description="The model's own, or left out.")
    ] = None


class TeiPrediction(msgspec.Struct):
    """One label of one input."""

    score: float
    label: str


class TeiError(msgspec.Struct):
    """The body of every answer of `/predict` that is not 2xx."""

    error: str
    error_type: str


_decode = msgspec.json.Decoder(TeiRequest).decode
_encode = msgspec.json.Encoder().encode


class TeiApi:
    """The handler of `POST /predict`."""

    def __init__(self, answering: Answering) -> None:
        """Answer through `answering`."""
        self._answering = answering

    async def predict(self, request: Request) -> Reply:
        """Per input its labels with scores, from the highest down."""
        limits = self._answering.limits
        deadline = self._answering.deadline(request)
        body = await request.read_json(limits, deadline)
        check_depth(body, limits.json_depth)
        asked = _decode(body)
        texts, is_batch = _inputs(asked.inputs)
        bundle = self._answering.engine.bundle
        task = _choose_task(bundle.manifest.tasks, request.query("task"))
        _check_direction(asked.truncation_direction, bundle.manifest.inputs.truncation_side)
        answered = await self._answering.answer(request, Work(texts, (task.name,), deadline))
        if asked.truncate is False:
            _refuse_truncated(answered)

        def write() -> bytes:
            rows = _predictions(answered, task, asked.raw_scores)
            return _encode(rows if is_batch else rows[0])

        body = await written(answered, write)
        return Reply(200, body, headers=self._answering.headers(request.started, answered))


def _inputs(inputs: str | list[str | list[str]]) -> tuple[Texts, bool]:
    """The texts, and whether they came as a batch."""
    if isinstance(inputs, str):
        return ((inputs,),), False
    flat = [part for part in inputs if isinstance(part, str)]
    if len(flat) == len(inputs) <= 2:
        return (tuple(flat),), False
    if flat:
        raise HttpError(
            422, "invalid_request", 'inputs must be a string, a pair of strings, or a batch: [["one"], ["two"]]'
        )
    return tuple(map(tuple, inputs)), True


def _choose_task(tasks: tuple[TaskSpec, ...], name: str | None) -> TaskSpec:
    if name is None and len(tasks) == 1:
        return tasks[0]
    for task in tasks:
        if task.name == name:
            return task
    said = "this model has several tasks" if name is None else f"there is no task '{name}'"
    choices = ", ".join(task.name for task in tasks)
    raise HttpError(422, "invalid_request", f"{said}; choose one with ?task=. Choices: {choices}")


def _check_direction(asked: str | None, side: str) -> None:
    if asked is not None and asked.lower() != side:
        raise HttpError(422, "invalid_request", f"this model cuts long texts at the {side}; leave the direction out")


def _refuse_truncated(answered: Answered) -> None:
    if True in answered.truncated:
        limit = answered.bundle.manifest.inputs.max_length
        index = answered.truncated.index(True)
        raise HttpError(413, "truncated", f"input {index} has more than {limit} tokens; shorten it, or set truncate")


def _predictions(answered: Answered, task: TaskSpec, raw: bool) -> list[list[TeiPrediction]]:
    logits = answered.logits[task.name]
    scores = logits.astype(np.float64) if raw else probabilities(logits, task)
    labels = task.labels or (task.name,)
    orders = np.argsort(-scores, axis=1, kind="stable").tolist()
    return [
        [TeiPrediction(row[index], labels[index]) for index in order]
        for row, order in zip(scores.tolist(), orders, strict=True)
    ]
