"""What one request may cost, checked before anything is computed: size, depth, texts, characters, time."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from serving.http.errors import HttpError

DEADLINE_HEADER = b"x-request-timeout-ms"
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A JSON string, or what is left of one that never ends: linear in any input."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = np.zeros(256, dtype=np.int32)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


def check_depth(body: bytes, limit: int) -> None:
    """HttpError 400 when brackets outside of strings nest deeper than `limit`; decodes nothing, recurses nowhere."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    if len(brackets) <= limit:
        return
    depth = int(np.cumsum(_STEPS[np.frombuffer(brackets, dtype=np.uint8)]).max())
    if depth > limit:
        raise HttpError(400, "too_deep", f"the body nests {depth} brackets deep; at most {limit} are read")


def check_texts(texts: Sequence[Sequence[str]], max_texts: int, max_characters: int) -> None:
    """HttpError 413 for more texts, or a longer one, than one request may hold.

    Args:
        texts: each of 1 or 2 parts.
        max_texts: texts in one request.
        max_characters: characters of one part.
    """
    if len(texts) > max_texts:
        raise HttpError(413, "too_large", f"the request holds {len(texts)} texts; send at most {max_texts} at a time")
    for index, text in enumerate(texts):
        for part in text:
            if len(part) > max_characters:
                raise HttpError(
                    413, "too_large", f"text {index} has {len(part)} characters; at most {max_characters} are read"
                )


def deadline_seconds(header: bytes | None, default_ms: int, max_ms: int) -> float:
    """Seconds that a request may take.

    Args:
        header: the value of `x-request-timeout-ms`: a whole number of milliseconds, at least 1; None without one.
        default_ms: without a header.
        max_ms: what a longer wish is cut to.

    Raises:
        HttpError: 400, the header is no such number.
    """
    if header is None:
        return default_ms / 1000
    if not header.isdigit() or len(header) > 18 or (wished := int(header)) < 1:
        raise HttpError(
            400,
            "invalid_header",
            f"{DEADLINE_HEADER.decode()} must be a whole number of milliseconds, at least 1",
        )
    return min(wished, max_ms) / 1000
