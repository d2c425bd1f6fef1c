"""Hashes of content: of labelled texts, row by row, and of any JSON value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray


def hash_rows(texts: Sequence[tuple[str, ...]], labels: NDArray[Any] | None) -> str:
    """The sha256 over every row's texts and label, in order.

    Args:
        texts: of the rows.
        labels: [rows, ...]; None for texts without labels.
    """
    digest = hashlib.sha256()
    values = [None] * len(texts) if labels is None else labels.tolist()
    for text, label in zip(texts, values, strict=True):
        digest.update(json.dumps([*text, label], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def hash_value(value: object) -> str:
    """The sha256 of a JSON value in its canonical form: sorted keys, no spaces."""
    encoded = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(encoded.encode()).hexdigest()
