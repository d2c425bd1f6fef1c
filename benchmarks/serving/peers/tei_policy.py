"""An emulation of text-embeddings-inference's batching policy; TEI itself is Rust and is not measured here.

The policy: a request is tokenised and queued; whenever the one session is free it takes from the front of the queue
as long as texts times the longest of them stay within `max_batch_tokens` (16384, its default), drops requests whose
client has gone, pads to the longest and runs once. At most 512 requests are inside; more are refused with 429.
Source: `core/src/queue.rs` and `core/src/infer.rs` of that project, its defaults.

To be fair to a compiled server, the HTTP side is as lean as Python allows: plain ASGI under uvicorn with uvloop and
httptools, no framework, tokenising on the loop's thread (some 0.1 ms), one thread for the session.

    python -m benchmarks.serving.peers.tei_policy PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from tokenizers import Encoding

from benchmarks.serving.peers.model import PeerModel

MAX_BATCH_TOKENS = 16_384
MAX_CONCURRENT_REQUESTS = 512
JSON_HEADERS = [(b"content-type", b"application/json")]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Queue:
    """First in, first out; one batch at a time."""

    def __init__(self, model: PeerModel) -> None:
        """Start nothing yet."""
        self._model = model
        self._waiting: deque[tuple[Encoding, asyncio.Future[dict[str, Any]]]] = deque()
        self._thread = ThreadPoolExecutor(1)
        self._is_running = False

    def add(self, text: str) -> asyncio.Future[dict[str, Any]]:
        """Queue one text; the future ends with its answer."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._model.encode(text), future))
        if not self._is_running:
            self._run_next()
        return future

    def _run_next(self) -> None:
        batch = self._take()
        self._is_running = bool(batch)
        if batch:
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._thread, self._answer, [encoding for encoding, _ in batch])
            running.add_done_callback(lambda done: self._finish(batch, done))

    def _take(self) -> list[tuple[Encoding, asyncio.Future[dict[str, Any]]]]:
        batch: list[tuple[Encoding, asyncio.Future[dict[str, Any]]]] = []
        longest = 0
        while self._waiting:
            encoding, future = self._waiting[0]
            if not future.cancelled():
                longest = max(longest, len(encoding.ids))
                if batch and longest * (len(batch) + 1) > MAX_BATCH_TOKENS:
                    break
                batch.append((encoding, future))
            self._waiting.popleft()
        return batch

    def _answer(self, encodings: list[Encoding]) -> list[dict[str, Any]]:
        return [self._model.answer(row) for row in self._model.run(encodings)]

    def _finish(
        self,
        batch: list[tuple[Encoding, asyncio.Future[dict[str, Any]]]],
        done: asyncio.Future[list[dict[str, Any]]],
    ) -> None:
        for (_, future), answer in zip(batch, done.result(), strict=True):
            if not future.done():
                future.set_result(answer)
        self._run_next()


class App:
    """`POST /predict {"text": ...}` and `GET /ready`."""

    def __init__(self) -> None:
        """Load the model."""
        self._queue = Queue(PeerModel.from_environment())
        self._inside = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            await _respond(send, 200, {"status": "ready"})
        elif self._inside >= MAX_CONCURRENT_REQUESTS:
            await _respond(send, 429, {"error": "Model is overloaded", "error_type": "Overloaded"})
        else:
            self._inside += 1
            try:
                text = json.loads(await _body(receive))["text"]
                answer = await _unless_gone(self._queue.add(text), receive)
            finally:
                self._inside -= 1
            if answer is not None:
                await _respond(send, 200, answer)


async def _unless_gone(future: asyncio.Future[dict[str, Any]], receive: Receive) -> dict[str, Any] | None:
    """The answer, or None when the client closed the connection first; its text is then dropped from the queue."""
    gone = asyncio.ensure_future(receive())
    await asyncio.wait((future, gone), return_when=asyncio.FIRST_COMPLETED)
    if future.done():
        gone.cancel()
        return future.result()
    future.cancel()
    return None


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _respond(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content, separators=(",", ":")).encode()
    headers = [*JSON_HEADERS, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        App(),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
