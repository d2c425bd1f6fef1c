"""Whether a bundle's tokenizer makes of a text what the student was trained on.

The ladder feeds torch and every graph the same ids, so a wrong vocabulary, pad id or truncation would be wrong for
all of them alike and show nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from export.runners import DEFAULT_BATCH_SIZE, Inputs
from serving.tokenise import TextEncoder

Tokenise = Callable[[Sequence[tuple[str, ...]]], Inputs]
"""From texts to the padded batch that the student's own tokenizer makes of them: int64 [batch, tokens] each."""


def count_other_tokens(tokenise: Tokenise, encoder: TextEncoder, texts: Sequence[tuple[str, ...]]) -> int:
    """How many texts the bundle's tokenizer turns into other ids, masks, token types or padding.

    Args:
        tokenise: the student's own way.
        encoder: the bundle's.
        texts: real ones; neighbours share a batch, so that there is padding to compare.
    """
    return sum(
        _count_other_rows(tokenise(part), encoder.batch(encoder.encode(part)))
        for start in range(0, len(texts), DEFAULT_BATCH_SIZE)
        if (part := texts[start : start + DEFAULT_BATCH_SIZE])
    )


def _count_other_rows(expected: Inputs, given: Inputs) -> int:
    """Rows that differ in any input; all of them where the batches have other inputs or another width."""
    num_rows = len(next(iter(given.values())))
    if expected.keys() != given.keys() or any(expected[name].shape != given[name].shape for name in given):
        return num_rows
    differs = [np.any(expected[name] != given[name], axis=1) for name in given]
    return int(np.logical_or.reduce(differs).sum())
