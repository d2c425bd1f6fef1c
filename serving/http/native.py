"""Our own API: `POST /v1/predict`, `GET /v1/info` and the probes."""

from __future__ import annotations

from importlib import metadata

import msgspec

from serving.engine.contract import Answered, NotReady, Work
from serving.http.answering import Answering, Texts, written
from serving.http.errors import RESTART_SECONDS, HttpError, retry_after
from serving.http.limits import check_depth
from serving.http.protocol import (
    ArtifactInfo,
    InfoResponse,
    LimitsInfo,
    PredictRequest,
    PredictResponse,
    Status,
    TaskInfo,
)
from serving.http.request import Reply, Request, json_reply

_decode = msgspec.json.Decoder(PredictRequest).decode
_encode = msgspec.json.Encoder().encode


class NativeApi:
    """The handlers of our own routes."""

    def __init__(self, answering: Answering) -> None:
        """Answer through `answering`."""
        self._answering = answering
        self._engine = answering.engine
        self._limits = answering.limits

    async def predict(self, request: Request) -> Reply:
        """`POST /v1/predict`: per text and task what `Bundle.predict` says."""
        answering = self._answering
        deadline = answering.deadline(request)
        asked = self.read(await request.read_json(self._limits, deadline))
        answered = await answering.answer(request, work_of(asked, deadline))
        return await written(answered, lambda: self.reply_to(asked, answered, request.started))

    def read(self, body: bytes) -> PredictRequest:
        """What the body of `POST /v1/predict` asks; HttpError, or what msgspec raises, for any other."""
        check_depth(body, self._limits.json_depth)
        return _decode(body)

    def reply_to(self, asked: PredictRequest, answered: Answered, started: float) -> Reply:
        """The answer of a request that came at that time; for any thread."""
        facts = self._answering.facts(answered.bundle)
        top_k = None if asked.top_k is None else int(asked.top_k)
        answers = answered.bundle.answers(answered.logits, top_k)
        raw = _raw_rows(answered) if asked.raw else None
        body = _encode(PredictResponse(answers, answered.truncated, facts.model, raw))
        return Reply(200, body, headers=self._answering.headers(started, answered, facts))

    async def info(self, request: Request) -> Reply:
        """`GET /v1/info`: what is served, and what a request may cost."""
        bundle, limits, settings = self._engine.bundle, self._limits, self._answering.settings
        manifest, artifact = bundle.manifest, bundle.artifact
        response = InfoResponse(
            model=self._answering.facts(bundle).model,
            artifact=ArtifactInfo(
                artifact.file, artifact.sha256, artifact.bytes, artifact.passed, artifact.batch_invariant
            ),
            tasks=tuple(TaskInfo(t.name, t.type, t.labels, t.range, t.thresholds) for t in manifest.tasks),
            text_columns=manifest.inputs.text_columns,
            max_length=manifest.inputs.max_length,
            limits=LimitsInfo(
                limits.body_bytes,
                limits.texts,
                limits.characters,
                limits.json_depth,
                settings.default_deadline_ms,
                settings.max_deadline_ms,
            ),
            server_version=server_version(),
        )
        return json_reply(response)

    async def live(self, request: Request) -> Reply:
        """`GET /livez`: 503 when only a new process would help."""
        if self._engine.state == "failed":
            raise HttpError(503, "failed", "the engine has failed and will not recover; restart the process")
        return json_reply(Status("alive"))

    async def ready(self, request: Request) -> Reply:
        """`GET /readyz`: 503 while new work should go elsewhere."""
        state = self._engine.state
        if state != "ready":
            raise HttpError(503, state, f"the server is {state}", [retry_after(RESTART_SECONDS)])
        return json_reply(Status("ready", self._answering.facts(self._engine.bundle).model))

    async def started(self, request: Request) -> Reply:
        """`GET /startupz`: 503 until the bundle was checked and loaded."""
        if self._engine.state == "starting":
            raise NotReady("the bundle is being loaded and checked")
        return json_reply(Status("started"))


def server_version() -> str:
    """The version of the installed distribution."""
    return metadata.version("compressor-toolchain")


def work_of(asked: PredictRequest, deadline: float) -> Work:
    """What a request asks of the engine, until `deadline` (`time.monotonic()` seconds)."""
    text = asked.text
    if isinstance(text, str):
        texts: Texts = ((text,),)
    else:
        texts = tuple((part,) if isinstance(part, str) else part for part in text)
    return Work(texts, None if asked.tasks is None else tuple(asked.tasks), deadline)


def _raw_rows(answered: Answered) -> list[dict[str, list[float]]]:
    """Per text, from task name to logits."""
    columns = [logits.tolist() for logits in answered.logits.values()]
    return [dict(zip(answered.logits, row, strict=True)) for row in zip(*columns, strict=True)]
