"""Rows whose text is also in an evaluation split: found by normalised text, in either order of a pair."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd

_SIDES = "\x1f"
_LAST_PLANE_END = 0x20000  # all of Unicode's punctuation lies below
_PUNCTUATION_TO_SPACE = {
    point: " " for point in range(_LAST_PLANE_END) if unicodedata.category(chr(point)).startswith("P")
}


def normalise(text: str) -> str:
    """A text without what copies differ in: compatibility forms (NFKC), case, punctuation, width of spaces.

    Of a text that is all punctuation, like '?!', the punctuation stays.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_PUNCTUATION_TO_SPACE).split()) or " ".join(folded.split())


def text_keys(texts: Sequence[tuple[str, ...]]) -> np.ndarray:
    """One key per row, [rows], equal where the normalised texts are, whatever their order in a pair."""
    keys = np.empty(len(texts), dtype=object)
    keys[:] = [_SIDES.join(sorted(normalise(text) for text in row)) for row in texts]
    return keys


def count_duplicates(keys: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """Rows that repeat the text of an earlier row, and texts that occur with more than one label.

    Args:
        keys: [rows], from `text_keys`.
        labels: [rows] or [rows, labels].
    """
    text, _ = pd.factorize(pd.Series(keys, dtype=object))
    if not len(text):
        return 0, 0
    label = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = pd.DataFrame({"text": text, "label": label}).drop_duplicates()
    num_texts = int(text.max()) + 1
    return len(text) - num_texts, int((pairs["text"].value_counts() > 1).sum())
