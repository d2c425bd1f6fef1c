"""Whether a server says what the bundle says: asked before it is timed."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.servers import Server
from serving.bundle import Bundle

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Expected:
    """What the model says to texts, each run alone.

    Attributes:
        labels: one per text.
        logits: [texts, labels].
        scores: per text, from label to score.
    """

    labels: list[str]
    logits: NDArray[np.float32]
    scores: list[dict[str, float]]


def expected_answers(folder: Path, precision: str, texts: Sequence[str]) -> Expected:
    """Ask the bundle itself, for its first task."""
    bundle = Bundle.load(folder, precision)
    task = bundle.manifest.tasks[0].name
    logits = bundle.logits(texts, [task], batch_size=1)
    answers = [row[task] for row in bundle.answers(logits)]
    return Expected([answer["label"] for answer in answers], logits[task], [answer["scores"] for answer in answers])


def check_server(server: Server, port: int, texts: Sequence[str], expected: Expected) -> float:
    """Ask for each text by itself; returns the largest difference of logits (of scores where no logits are given).

    Raises:
        RuntimeError: another label, or a difference above TOLERANCE: it does not serve the same model.
    """
    largest = 0.0
    for row, text in enumerate(texts):
        answer = _ask(server, port, text)
        difference = _difference(answer, expected, row)
        if answer["label"] != expected.labels[row] or not difference <= TOLERANCE:
            raise RuntimeError(
                f"{server.name} answers text {row} with '{answer['label']}', its figures off by {difference:.2g}; "
                f"the bundle says '{expected.labels[row]}'. Both must serve the same file: check its settings"
            )
        largest = max(largest, difference)
    return largest


def is_answered(server: Server, port: int, text: str) -> bool:
    """Whether one text is answered at all, within ten seconds."""
    try:
        _post(server, port, {"text": text})
    except (OSError, http.client.HTTPException, RuntimeError):
        return False
    return True


def _difference(answer: Mapping[str, Any], expected: Expected, row: int) -> float:
    if "logits" in answer:
        return float(np.abs(np.asarray(answer["logits"]) - expected.logits[row]).max())
    return float(max(abs(answer["scores"][label] - score) for label, score in expected.scores[row].items()))


def _ask(server: Server, port: int, text: str) -> dict[str, Any]:
    """One answer, in the peers' form."""
    given = _post(server, port, {"text": text, "raw": True} if server.is_ours else {"text": text})
    if not server.is_ours:
        return given
    answer: dict[str, Any] = next(iter(given["answers"][0].values()))
    if "logits" in given:
        answer["logits"] = next(iter(given["logits"][0].values()))
    return answer


def _post(server: Server, port: int, content: Mapping[str, Any]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    try:
        connection.request("POST", server.path, json.dumps(content), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"{server.name} answers {response.status}: {body.decode(errors='replace')[:200]}")
    answer: dict[str, Any] = json.loads(body)
    return answer
