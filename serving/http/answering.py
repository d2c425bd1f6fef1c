"""From a decoded request to the engine's answer: limits, deadline, the key's allowance, timing and version headers."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote

from serving.bundle import Bundle
from serving.engine.contract import Answered, Engine, Work
from serving.http.errors import Header
from serving.http.keys import KeyRing
from serving.http.limits import DEADLINE_HEADER, check_texts, deadline_seconds
from serving.http.metrics import Metrics
from serving.http.protocol import ModelInfo
from serving.http.request import Request

if TYPE_CHECKING:
    from serving.operations.settings import ServerSettings

LARGE_LOGITS = 2048
"""An answer over so many logits is written by a thread: some milliseconds, while the event loop would stand still."""

Texts = tuple[tuple[str, ...], ...]
Body = TypeVar("Body")
_SIZE = attrgetter("size")
_VISIBLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class Facts(NamedTuple):
    """What answers say of their bundle.

    Attributes:
        bundle: a weak reference, for a swapped one is to leave memory.
        model: name, version and precision.
        headers: the same.
    """

    bundle: Callable[[], Bundle | None]
    model: ModelInfo
    headers: tuple[Header, ...]


class Answering:
    """Hands texts to the engine on behalf of every protocol."""

    def __init__(self, engine: Engine, settings: ServerSettings, metrics: Metrics, keys: KeyRing) -> None:
        """Join what a request passes on its way."""
        self.engine = engine
        self.settings = settings
        self.limits = settings.limits
        self._metrics = metrics
        self._keys = keys
        self._known = Facts(lambda: None, ModelInfo("", "", ""), ())

    def deadline(self, request: Request, timeout_seconds: float | None = None) -> float:
        """When a request's time is over, in `time.monotonic()` seconds.

        Args:
            request: whose header names it.
            timeout_seconds: what the body asked for; the header comes first, and without either the default holds.

        Raises:
            HttpError: 400, the header is no number of milliseconds.
        """
        settings = self.settings
        header = request.headers.get(DEADLINE_HEADER)
        if header is None and timeout_seconds is not None:
            return request.started + min(timeout_seconds, settings.max_deadline_ms / 1000)
        return request.started + deadline_seconds(header, settings.default_deadline_ms, settings.max_deadline_ms)

    async def answer(self, request: Request, work: Work) -> Answered:
        """Answer what a request asks, within its deadline.

        Args:
            request: whose key pays.
            work: what it asks.

        Raises:
            HttpError: 429 of the key, 413 for too many or too long texts.
            Exception: what `Engine.answer` raises.
        """
        limits, texts = self.limits, work.texts
        check_texts(texts, limits.texts, limits.characters)
        request.texts = len(texts)
        if self.settings.log_texts:
            request.log_texts = texts
        if request.key is None:
            answered = await self.engine.answer(work)
            request.tokens = sum(answered.tokens)
        else:
            with self._keys.spend(request, texts):
                answered = await self.engine.answer(work)
                request.tokens = sum(answered.tokens)
        self._metrics.answered(answered, request.tokens)
        return answered

    def headers(self, started: float, answered: Answered, facts: Facts | None = None) -> tuple[Header, ...]:
        """What an answer's head says of it: `server-timing` in milliseconds, and of its bundle.

        Args:
            started: when the request came, for `total`.
            answered: the answer.
            facts: of its bundle, where they are at hand.
        """
        total = time.monotonic() - started
        timing = b"queue;dur=%.3f, tokenise;dur=%.3f, run;dur=%.3f, total;dur=%.3f" % (
            answered.queue_seconds * 1e3,
            answered.tokenise_seconds * 1e3,
            answered.run_seconds * 1e3,
            total * 1e3,
        )
        return ((b"server-timing", timing), *(facts or self.facts(answered.bundle)).headers)

    def facts(self, bundle: Bundle) -> Facts:
        """What answers say of a bundle; those of the last one are kept."""
        known = self._known  # read once: an answer that a thread writes asks, too
        if known.bundle() is not bundle:
            model = ModelInfo(bundle.manifest.name, bundle.manifest.version, bundle.artifact.precision)
            headers = (
                (b"x-model-name", _in_header(model.name)),
                (b"x-model-version", _in_header(model.version)),
                (b"x-model-precision", _in_header(model.precision)),
            )
            known = self._known = Facts(weakref.ref(bundle), model, headers)
        return known


async def written(answered: Answered, write: Callable[[], Body]) -> Body:
    """What `write` makes of an answer; a large one is written by a thread, so that others are not kept waiting."""
    return await asyncio.to_thread(write) if is_large(answered) else write()


def is_large(answered: Answered) -> bool:
    """Whether an answer takes long to write."""
    num_logits: int = sum(map(_SIZE, answered.logits.values()))
    return num_logits >= LARGE_LOGITS


def _in_header(value: str) -> bytes:
    """A value that fits into a header: what is not visible ASCII is percent-encoded as UTF-8."""
    return quote(value, safe=_VISIBLE).encode()
