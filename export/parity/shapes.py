"""The batches that graphs are compared on: real texts in the shapes that break exports.

A graph may be right for the batch it was traced with and wrong elsewhere. Each shape here shows a defect of its
own: one text alone, odd batches, short beside long texts, more padding than any text needs, the longest input the
model takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from export.runners import Inputs
from serving.errors import UserError
from serving.tokenise import Encoding, TextEncoder

NUM_ALONE = 24
ODD_BATCH = 7
EXTRA_PADDING = 5


def spread(encoder: TextEncoder, texts: Sequence[tuple[str, ...]]) -> list[Encoding]:
    """Encoded texts from the shortest to the longest, evenly picked, at most `NUM_ALONE`.

    Raises:
        UserError: no texts.
    """
    if not texts:
        raise UserError("there are no texts to compare the graphs on. Give at least one real text.")
    encodings = sorted(encoder.encode(texts), key=len)
    picks = np.linspace(0, len(encodings) - 1, num=min(NUM_ALONE, len(encodings))).round().astype(int)
    return [encodings[pick] for pick in picks]


def shaped_batches(encoder: TextEncoder, encodings: Sequence[Encoding]) -> Iterator[Inputs]:
    """The batches of a comparison: alone, odd, mixed lengths, too much padding, longest.

    Args:
        encoder: pads.
        encodings: at least one, shortest first.
    """
    for encoding in encodings:
        yield encoder.batch([encoding])
    for start in range(0, len(encodings), ODD_BATCH):
        yield encoder.batch(encodings[start : start + ODD_BATCH])
    for rows in mixed_rows(len(encodings)):
        yield padded(encoder, [encodings[row] for row in rows], EXTRA_PADDING)
    longest = _longest(encoder, encodings)
    yield encoder.batch([longest])
    yield encoder.batch([longest, encodings[0], encodings[len(encodings) // 2]])


def mixed_rows(num_rows: int) -> Iterator[list[int]]:
    """Batches that put the shortest beside the longest; every row is in one of them."""
    outside_in = [row for pair in zip(range(num_rows), reversed(range(num_rows)), strict=True) for row in pair]
    order = list(dict.fromkeys(outside_in))
    for start in range(0, num_rows, ODD_BATCH + 1):
        yield order[start : start + ODD_BATCH + 1]


def padded(encoder: TextEncoder, encodings: Sequence[Encoding], extra: int) -> Inputs:
    """A batch with more padding than its longest text needs, up to the model's longest input."""
    padding = {
        "input_ids": encoder.inputs.pad_id,
        "attention_mask": 0,
        "token_type_ids": encoder.inputs.pad_token_type_id,
    }
    batch = encoder.batch(encodings)
    width = next(iter(batch.values())).shape[1]
    extra = max(0, min(extra, encoder.inputs.max_length - width))
    return {name: np.pad(array, ((0, 0), (0, extra)), constant_values=padding[name]) for name, array in batch.items()}


def shape_of(inputs: Inputs) -> tuple[int, int]:
    """(batch, tokens) of a padded batch."""
    batch, tokens = inputs["input_ids"].shape
    return batch, tokens


def _longest(encoder: TextEncoder, encodings: Sequence[Encoding]) -> Encoding:
    """An input of exactly `max_length` tokens: the longest text, its tokens repeated where it is shorter."""
    longest = encodings[-1]
    length = encoder.inputs.max_length
    middle = range(1, max(2, len(longest) - 1))
    picks = [0, *(middle[place % len(middle)] for place in range(length - 2)), len(longest) - 1][:length]
    return Encoding(
        input_ids=[longest.input_ids[pick] for pick in picks],
        token_type_ids=sorted(longest.token_type_ids[pick] for pick in picks),
        was_truncated=False,
    )
