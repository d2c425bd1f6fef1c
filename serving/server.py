"""The HTTP server: one process, one bundle, JSON in and out.

The event loop only parses and writes; tokenising and the model run in worker threads, one text at a time
unless the artifact's answers do not depend on the batch.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from rich.console import Console
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serving.bundle import Bundle
from serving.errors import BundleError, UserError
from serving.host import available_cpus

ErrorHandler = Callable[[Request, Exception], Awaitable[Response]]

MAX_BODY_BYTES = 1 << 20
SHUTDOWN_SECONDS = 20


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/predict`.

    Attributes:
        text: one text, a list of texts, or a list of pairs.
        tasks: the tasks to answer; all when left out.
        top_k: labels to show under `scores`; all when left out.
    """

    text: str | list[str | tuple[str, str]]
    tasks: list[str] | None = None
    top_k: int | None = None


class ModelInfo(msgspec.Struct, frozen=True):
    """Which model gave an answer."""

    name: str
    version: str
    precision: str


class PredictResponse(msgspec.Struct):
    """The answer of `POST /v1/predict`.

    Attributes:
        answers: per text, from task name to answer.
        truncated: per text, whether it was cut to the model's max_length.
        model: which model answered.
    """

    answers: list[dict[str, dict[str, Any]]]
    truncated: list[bool]
    model: ModelInfo


class Predictor:
    """Answers requests with a bundle in as many lanes as there are CPUs for them."""

    def __init__(self, bundle: Bundle, lanes: int) -> None:
        """Start no thread yet; each of the `lanes` calls the model on its own."""
        self._bundle = bundle
        self._threads = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
        self._model = ModelInfo(bundle.manifest.name, bundle.manifest.version, bundle.artifact.precision)

    async def predict(self, request: Request) -> Response:
        """`POST /v1/predict`."""
        body = msgspec.json.decode(await _read_body(request), type=PredictRequest)
        loop = asyncio.get_running_loop()
        return _json(await loop.run_in_executor(self._threads, self._answer, body))

    async def ready(self, request: Request) -> Response:
        """`GET /readyz`: the bundle was checked and loaded before this server existed."""
        return _json({"status": "ready", "model": self._model})

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Let the running lanes finish at the end."""
        yield
        self._threads.shutdown(wait=True)

    def _answer(self, body: PredictRequest) -> PredictResponse:
        texts = [body.text] if isinstance(body.text, str) else body.text
        encodings = self._bundle.encode(texts)
        answers = self._bundle.answers(self._bundle.run(encodings, body.tasks), body.top_k)
        return PredictResponse(answers, [encoding.was_truncated for encoding in encodings], self._model)


def create_app(bundle: Bundle, lanes: int = 1) -> Starlette:
    """The ASGI application over a loaded bundle; `lanes` requests are computed at the same time."""
    predictor = Predictor(bundle, lanes)
    return Starlette(
        routes=[
            Route("/v1/predict", predictor.predict, methods=["POST"]),
            Route("/livez", _live),
            Route("/readyz", predictor.ready),
        ],
        exception_handlers=ERROR_HANDLERS,
        lifespan=predictor.lifespan,
    )


def serve(
    bundle_folder: Path | str,
    host: str = "127.0.0.1",
    port: int = 8000,
    precision: str | None = None,
    threads: int = 1,
) -> None:
    """Serve a bundle until SIGTERM or SIGINT; requests that have begun are answered first.

    Args:
        bundle_folder: the bundle; nothing listens before it was checked.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        precision: of the artifact; None for the fastest that passed its gates, which the manifest names.
        threads: for one call of the model; as many lanes work at once as fit into the available CPUs.

    Raises:
        UserError: the bundle was refused, or the address is not to be had.
    """
    bundle = Bundle.load(bundle_folder, precision, threads=threads)
    lanes = max(1, available_cpus() // threads)
    with _listen(host, port) as listener:
        _announce(bundle, lanes, threads, listener)
        _run_until_stopped(create_app(bundle, lanes), listener)


def _run_until_stopped(app: Starlette, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=SHUTDOWN_SECONDS
    )
    server = uvicorn.Server(config)

    def stop(signal_number: int, frame: object) -> None:
        server.should_exit = True

    # uvicorn raises the signals it caught once more when it is done: these handlers make that a normal end.
    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; UserError when the address is taken or not ours."""
    if not 0 <= port <= 65535:
        raise UserError(f"port {port} does not exist. Choose one up to 65535 with --port, or 0 for a free one.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose others with --host and --port."
        ) from error


def _announce(bundle: Bundle, lanes: int, threads: int, listener: socket.socket) -> None:
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    artifact = bundle.artifact
    console.print(
        f"serving {bundle.manifest.name} {bundle.manifest.version}: {artifact.file} ({artifact.precision}, "
        f"{artifact.bytes / 1e6:.1f} MB), {lanes} lane(s) of {threads} thread(s), "
        f"batch size {bundle.safe_batch_size}"
    )
    if not artifact.passed:
        console.print(f"warning: {artifact.file} did not pass every gate; see the bundle's README.md")
    console.print(f"listening on http://{shown}:{port}")


async def _live(request: Request) -> Response:
    """`GET /livez`: the event loop turns."""
    return _json({"status": "alive"})


async def _read_body(request: Request) -> bytes:
    """The whole body; HTTPException 413 as soon as it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes; send fewer texts at a time")
    return bytes(body)


def _json(content: object, status: int = 200, headers: Any = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def _error(status: int, code: str, message: str, headers: Any = None) -> Response:
    return _json({"error": {"code": code, "message": message}}, status, headers)


def _failure(status: int, code: str, text: str = "{error}") -> ErrorHandler:
    """A handler that answers an exception with a status, a code and a message."""

    async def handle(request: Request, error: Exception) -> Response:
        return _error(status, code, text.format(error=error))

    return handle


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405) and ours (413), in the same form."""
    status, headers = getattr(error, "status_code", 500), getattr(error, "headers", None)
    codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    return _error(status, codes.get(status, "http_error"), getattr(error, "detail", str(error)), headers)


ERROR_HANDLERS: dict[Any, ErrorHandler] = {
    msgspec.DecodeError: _failure(400, "invalid_json", "the body is not JSON: {error}"),
    UnicodeDecodeError: _failure(400, "invalid_json", "the body is not UTF-8: {error}"),
    ClientDisconnect: _failure(400, "client_disconnected", "the connection closed before the body was complete"),
    msgspec.ValidationError: _failure(422, "invalid_request"),
    UserError: _failure(422, "invalid_request"),
    BundleError: _failure(500, "model_failed"),
    HTTPException: _http_error,
    Exception: _failure(500, "internal_error", "the server failed; its log tells why"),
}
"""The most specific class of an exception decides its answer."""
