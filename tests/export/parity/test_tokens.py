"""The bundle's tokenizer against the student's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from export.parity.tokens import Tokenise, count_other_tokens
from export.runners import Inputs
from serving.tokenise import TextEncoder
from tests.export.conftest import make_texts
from tests.export.parity.conftest import PAIR_INPUTS


def test_the_same_tokenizer_makes_no_difference(encoder: TextEncoder, own_tokens: Tokenise) -> None:
    """A count that is never zero could not be a gate."""
    assert count_other_tokens(own_tokens, encoder, make_texts(40)) == 0


@pytest.mark.parametrize(
    ("name", "row", "column", "value"),
    [("input_ids", 3, 1, 9), ("attention_mask", 3, 0, 0), ("input_ids", 0, -1, 63)],
    ids=["an id", "the mask", "the padding"],
)
def test_one_other_number_counts_its_text(
    encoder: TextEncoder, own_tokens: Tokenise, name: str, row: int, column: int, value: int
) -> None:
    """One word cut otherwise in a thousand texts is the difference that nobody sees in a metric."""

    def other(texts: Sequence[tuple[str, ...]]) -> Inputs:
        batch = dict(own_tokens(texts))
        if texts[0] == make_texts(40)[0]:  # the first batch only
            batch[name] = batch[name].copy()
            batch[name][row, column] = value
        return batch

    assert count_other_tokens(other, encoder, make_texts(40)) == 1


def test_other_inputs_or_lengths_count_every_text_of_the_batch(encoder: TextEncoder, own_tokens: Tokenise) -> None:
    """Token types that one side does not know, or another limit of the length."""

    def longer(texts: Sequence[tuple[str, ...]]) -> Inputs:
        return {key: np.pad(array, ((0, 0), (0, 1))) for key, array in own_tokens(texts).items()}

    def with_types(texts: Sequence[tuple[str, ...]]) -> Inputs:
        batch = own_tokens(texts)
        return {**batch, "token_type_ids": np.zeros_like(batch["input_ids"])}

    assert count_other_tokens(longer, encoder, make_texts(20)) == 20
    assert count_other_tokens(with_types, encoder, make_texts(20)) == 20


def test_pairs_in_the_other_order_are_found(
    pair_student: object, tokenizer_folder: Path, pairs: list[tuple[str, ...]]
) -> None:
    """Question and answer swapped: the same words, the same length, another text."""
    inputs = msgspec.structs.replace(PAIR_INPUTS, max_length=64)
    tokenizer = TextEncoder.load(tokenizer_folder / "tokenizer.json", inputs)

    def turned(texts: Sequence[tuple[str, ...]]) -> Inputs:
        return tokenizer.batch(tokenizer.encode([text[::-1] for text in texts]))

    assert count_other_tokens(turned, tokenizer, pairs) == sum(first != second for first, second in pairs)
