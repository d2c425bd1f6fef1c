"""What goes wrong with a request, as a status, a code and a message; and the three forms in which callers read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from serving.engine.contract import Expired, LaneFailed, NotReady, Overloaded
from serving.errors import BundleError, UserError

Header = tuple[bytes, bytes]
Form = Literal["native", "tei", "v2"]
"""Whose error form a route speaks: our own, text-embeddings-inference's, or the Open Inference Protocol's."""

RESTART_SECONDS = 1
"""Retry-After of a server that starts or drains."""

_TEI_TYPES = {
    "model_failed": ("Backend", 424),
    "internal_error": ("Backend", 424),
    "overloaded": ("Overloaded", 429),
    "rate_limited": ("Overloaded", 429),
    "deadline_expired": ("Overloaded", 504),
    "not_ready": ("Unhealthy", 503),
    "too_large": ("Validation", 413),
    "truncated": ("Validation", 413),
}
"""Code -> text-embeddings-inference's error type and status; any other is Validation with the error's own status."""


class HttpError(Exception):
    """An answer that is not 2xx.

    Attributes:
        status: of HTTP.
        code: a word that callers branch on.
        headers: to add to the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: Sequence[Header] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = tuple(headers)


def retry_after(seconds: float) -> Header:
    """A `retry-after` header: whole seconds, rounded up, at least 1."""
    return b"retry-after", b"%d" % max(1, math.ceil(seconds))


def explain(error: Exception) -> HttpError:
    """What a caller is told about an exception; anything unforeseen is `internal_error` and tells nothing inside."""
    if isinstance(error, HttpError):
        return error
    for kind, translate in _TRANSLATIONS:
        if isinstance(error, kind):
            return translate(error)
    return HttpError(500, "internal_error", "the server failed; its log tells why")


def render(error: HttpError, form: Form) -> tuple[int, bytes]:
    """Status and body of an error in a route's own form."""
    message = str(error)
    if form == "tei":
        kind, status = _TEI_TYPES.get(error.code, ("Validation", error.status))
        return status, msgspec.json.encode({"error": message, "error_type": kind})
    if form == "v2":
        return error.status, msgspec.json.encode({"error": message})
    return error.status, msgspec.json.encode({"error": {"code": error.code, "message": message}})


def _overloaded(error: Exception) -> HttpError:
    seconds = error.retry_after if isinstance(error, Overloaded) else RESTART_SECONDS
    return HttpError(429, "overloaded", str(error), [retry_after(seconds)])


def _not_ready(error: Exception) -> HttpError:
    return HttpError(503, "not_ready", str(error), [retry_after(RESTART_SECONDS)])


def _with(status: int, code: str, form: str = "{}") -> Callable[[Exception], HttpError]:
    return lambda error: HttpError(status, code, form.format(error))


_TRANSLATIONS: tuple[tuple[type[Exception], Callable[[Exception], HttpError]], ...] = (
    (Overloaded, _overloaded),
    (NotReady, _not_ready),
    (Expired, _with(504, "deadline_expired")),
    (LaneFailed, _with(500, "model_failed")),
    (BundleError, _with(500, "model_failed")),
    (UserError, _with(422, "invalid_request")),
    (msgspec.ValidationError, _with(422, "invalid_request")),
    (msgspec.DecodeError, _with(400, "invalid_json", "the body is not JSON: {}")),
    (UnicodeDecodeError, _with(400, "invalid_json", "the body is not UTF-8: {}")),
    (RecursionError, _with(400, "too_deep", "the body nests too deep: {}")),
)
"""The first class that fits decides: subclasses stand before their bases."""
