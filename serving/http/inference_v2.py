"""The Open Inference Protocol, version 2, over REST: health, metadata and inference.

Inputs are the model's text columns, BYTES [texts] each. Outputs of a task T: `T.logits` FP32 [texts, outputs];
for a classification `T.label` BYTES [texts] and `T.probabilities` FP64 [texts, labels]; for a multilabel task
`T.present` BOOL and `T.probabilities` FP64 [texts, labels]; for a regression `T.value` FP64 [texts].
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.answers import decide, probabilities
from serving.bundle import Bundle
from serving.engine.contract import Answered, Work
from serving.http.answering import Answering, Texts, written
from serving.http.errors import HttpError
from serving.http.limits import check_depth
from serving.http.native import server_version
from serving.http.request import JSON, Reply, Request, json_reply
from serving.http.tensors import InputTensor, Parameters, read_strings, split_body, write_tensor
from serving.manifest import TaskSpec

BINARY = b"application/octet-stream"
LENGTH_HEADER = b"inference-header-content-length"
MODELS = "/v2/models/"
Values = NDArray[Any] | list[str]
Handlers = dict[str, Callable[[Request], Awaitable[Reply]]]


class OutputWish(msgspec.Struct):
    """One output that a request asks for."""

    name: str
    parameters: Parameters = {}


class InferRequest(msgspec.Struct):
    """The body of `POST /v2/models/NAME/infer`."""

    inputs: list[InputTensor]
    outputs: list[OutputWish] | None = None
    id: str | None = None
    parameters: Parameters = {}


class InferError(msgspec.Struct):
    """The body of every answer under `/v2` that is not 2xx."""

    error: str


class Output(NamedTuple):
    """An output that a model can give: its task, datatype, columns (0 for [texts]) and how to read the logits."""

    task: TaskSpec
    datatype: str
    columns: int
    read: Callable[[NDArray[np.float32], TaskSpec], Values]

    @property
    def shape(self) -> list[int]:
        """As metadata says it: -1 for the number of texts."""
        return [-1, self.columns] if self.columns else [-1]


_decode = msgspec.json.Decoder(InferRequest).decode
_encode = msgspec.json.Encoder().encode


class InferenceV2Api:
    """The handlers under `/v2`."""

    def __init__(self, answering: Answering) -> None:
        """Answer through `answering`."""
        self._answering = answering
        self._engine = answering.engine

    def route(self, path: str) -> tuple[str, Handlers] | None:
        """Template and handlers by method of a path under `/v2/models/`; None when there is no such path.

        Raises:
            HttpError: 404, the path names another model or version.
            NotReady: no bundle is loaded yet.
        """
        manifest = self._engine.bundle.manifest
        name, rest = manifest.name, path.removeprefix(MODELS)
        if rest != name and not rest.startswith(f"{name}/"):
            raise HttpError(404, "not_found", f"this server has one model, '{name}'")
        rest = rest.removeprefix(name)
        template = f"{MODELS}{{name}}"
        if rest.startswith("/versions/"):
            version, _, end = rest.removeprefix("/versions/").partition("/")
            if version != manifest.version:
                raise HttpError(404, "not_found", f"model '{name}' has one version here, '{manifest.version}'")
            rest, template = f"/{end}" if end else "", f"{template}/versions/{{version}}"
        ends: dict[str, Handlers] = {
            "": {"GET": self.metadata},
            "/ready": {"GET": self.ready},
            "/infer": {"POST": self.infer},
        }
        return (template + rest, ends[rest]) if rest in ends else None

    async def server(self, request: Request) -> Reply:
        """`GET /v2`: this server."""
        extensions = ["binary_tensor_data"]
        return json_reply({"name": "compressor", "version": server_version(), "extensions": extensions})

    async def live(self, request: Request) -> Reply:
        """`GET /v2/health/live`."""
        if self._engine.state == "failed":
            raise HttpError(503, "failed", "the engine has failed and will not recover")
        return json_reply({"live": True})

    async def ready(self, request: Request) -> Reply:
        """`GET /v2/health/ready`, and the same of the model."""
        if self._engine.state != "ready":
            raise HttpError(503, "not_ready", f"the server is {self._engine.state}")
        return json_reply({"ready": True})

    async def metadata(self, request: Request) -> Reply:
        """`GET /v2/models/NAME`: inputs, outputs, and the labels in the order of the columns."""
        bundle = self._engine.bundle
        manifest = bundle.manifest
        return json_reply(
            {
                "name": manifest.name,
                "versions": [manifest.version],
                "platform": f"onnxruntime_onnx_{bundle.artifact.precision}",
                "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in manifest.inputs.text_columns],
                "outputs": [
                    {"name": name, "datatype": output.datatype, "shape": output.shape}
                    for name, output in outputs_of(bundle).items()
                ],
                "parameters": {f"{task.name}.labels": list(task.labels) for task in manifest.tasks if task.labels},
            }
        )

    async def infer(self, request: Request) -> Reply:
        """`POST /v2/models/NAME/infer`."""
        asked, binary = await self._read(request)
        bundle = self._engine.bundle
        texts = _texts(asked, binary, bundle.manifest.inputs.text_columns)
        wishes, outputs = _wishes(asked, outputs_of(bundle))
        tasks = tuple(dict.fromkeys(outputs[name].task.name for name in wishes))
        deadline = self._answering.deadline(request, _timeout(asked.parameters))
        answered = await self._answering.answer(request, Work(texts, tasks, deadline))
        head, tail = await written(answered, lambda: _write(answered, wishes, outputs, asked.id))
        headers = self._answering.headers(request.started, answered)
        if not any(wishes.values()):
            return Reply(200, head, headers=headers)
        return Reply(200, head + tail, BINARY, headers=((LENGTH_HEADER, b"%d" % len(head)), *headers))

    async def _read(self, request: Request) -> tuple[InferRequest, bytes]:
        limits = self._answering.limits
        latest = self._answering.deadline(request, math.inf)  # the body may still ask for that much
        if request.headers.get(b"content-type", BINARY).startswith(BINARY):
            body = await request.read(limits, latest)
        elif LENGTH_HEADER in request.headers:
            request.headers[b"content-type"] = JSON  # what many clients say of the two parts together
            body = await request.read(limits, latest)
        else:
            body = await request.read_json(limits, latest)
        head, binary = split_body(body, request.headers.get(LENGTH_HEADER))
        check_depth(head, limits.json_depth)
        return _decode(head), binary


def outputs_of(bundle: Bundle) -> dict[str, Output]:
    """Every output that a bundle can give, by name."""
    outputs: dict[str, Output] = {}
    for task in bundle.manifest.tasks:
        width = task.num_outputs
        outputs[f"{task.name}.logits"] = Output(task, "FP32", width, lambda logits, task: logits)
        if task.type == "regression":
            outputs[f"{task.name}.value"] = Output(task, "FP64", 0, decide)
            continue
        outputs[f"{task.name}.probabilities"] = Output(task, "FP64", width, probabilities)
        if task.type == "classification":
            outputs[f"{task.name}.label"] = Output(task, "BYTES", 0, _labels)
        else:
            outputs[f"{task.name}.present"] = Output(task, "BOOL", width, decide)
    return outputs


def _write(
    answered: Answered, wishes: Mapping[str, bool], outputs: Mapping[str, Output], request_id: str | None
) -> tuple[bytes, bytes]:
    """The answer's JSON, and the binary data that follows it."""
    tensors = [
        write_tensor(name, output.datatype, output.read(answered.logits[output.task.name], output.task), is_binary)
        for name, is_binary in wishes.items()
        for output in (outputs[name],)
    ]
    manifest = answered.bundle.manifest
    content = {"model_name": manifest.name, "model_version": manifest.version, "outputs": [t for t, _ in tensors]}
    if request_id is not None:
        content["id"] = request_id
    return _encode(content), b"".join(raw for _, raw in tensors)


def _labels(logits: NDArray[np.float32], task: TaskSpec) -> list[str]:
    return [task.labels[index] for index in decide(logits, task).tolist()]


def _texts(asked: InferRequest, binary: bytes, columns: Sequence[str]) -> Texts:
    names = [tensor.name for tensor in asked.inputs]
    if sorted(names) != sorted(columns):
        message = f"the inputs are {', '.join(names) or 'none'}; this model reads {', '.join(columns)}"
        raise HttpError(400, "invalid_request", message)
    values = read_strings(asked.inputs, binary)
    if len({len(found) for found in values.values()}) > 1:
        raise HttpError(400, "invalid_request", "the inputs hold different numbers of texts")
    return tuple(zip(*(values[column] for column in columns), strict=True))


def _wishes(asked: InferRequest, outputs: Mapping[str, Output]) -> tuple[dict[str, bool], Mapping[str, Output]]:
    """Names of the wanted outputs, in order, and whether each is to be binary."""
    all_binary = bool(asked.parameters.get("binary_data_output", False))
    wanted = asked.outputs or [OutputWish(name) for name in outputs]
    for wish in wanted:
        if wish.name not in outputs:
            raise HttpError(400, "invalid_request", f"no output '{wish.name}'. Choose among: {', '.join(outputs)}")
    return {wish.name: bool(wish.parameters.get("binary_data", all_binary)) for wish in wanted}, outputs


def _timeout(parameters: Parameters) -> float | None:
    """The protocol's own deadline, in microseconds; None without one."""
    wished = parameters.get("timeout")
    if isinstance(wished, int) and not isinstance(wished, bool) and wished > 0:
        return wished / 1e6
    return None
