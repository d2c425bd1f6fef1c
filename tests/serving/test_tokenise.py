"""Texts to inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer

from serving.errors import BundleError, UserError
from serving.manifest import InputSpec
from serving.tokenise import TextEncoder

SINGLE = InputSpec(
    names=("input_ids", "attention_mask", "token_type_ids"),
    pad_id=7,
    pad_token_type_id=1,
    max_length=5,
    text_columns=("text",),
)
PAIR = msgspec.structs.replace(SINGLE, text_columns=("premise", "hypothesis"))


def test_rows_are_padded_to_the_longest_with_the_pad_ids_of_the_manifest(tokenizer: Tokenizer) -> None:
    """A pad id of 0 for a model that was trained with another changes every answer in a batch."""
    encoder = TextEncoder(tokenizer, SINGLE)
    arrays = encoder.batch(encoder.encode([("refund",), ("broken thanks",)]))
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "input_ids": [[2, 4, 3, 7], [2, 5, 6, 3]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]],
        "token_type_ids": [[0, 0, 0, 1], [0, 0, 0, 0]],
    }
    assert {array.dtype.name for array in arrays.values()} == {"int64"}


def test_only_the_inputs_of_the_graph_are_made_in_its_order(tokenizer: Tokenizer) -> None:
    """DistilBERT takes no token types: one input too many fails every request."""
    encoder = TextEncoder(tokenizer, msgspec.structs.replace(SINGLE, names=("attention_mask", "input_ids")))
    assert list(encoder.batch(encoder.encode([("refund",)]))) == ["attention_mask", "input_ids"]


def test_a_pair_is_encoded_with_the_token_types_of_its_template(tokenizer: Tokenizer) -> None:
    """Pairs given as two single texts, or with all types 0, answer something else without an error."""
    (row,) = TextEncoder(tokenizer, PAIR).encode([("refund", "thanks")])
    assert row.input_ids == [2, 4, 3, 6, 3]
    assert row.token_type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("inputs", "texts"), [(SINGLE, ("refund", "x")), (PAIR, ("refund", "thanks"))])
def test_a_text_alone_has_the_inputs_of_its_row_in_a_batch(
    tokenizer: Tokenizer, inputs: InputSpec, texts: tuple[str, ...]
) -> None:
    """Alone it takes a shorter way, on which its token types could be lost."""
    encoder = TextEncoder(tokenizer, inputs)
    text = texts[: len(inputs.text_columns)]
    alone = encoder.batch(encoder.encode([text]))
    together = encoder.batch(encoder.encode([text, text]))
    assert list(alone) == list(together) == list(inputs.names)
    for name, array in alone.items():
        assert array.dtype == together[name].dtype
        assert array.tolist() == together[name][:1].tolist()
        assert array.flags.c_contiguous


def test_what_texts_share_cannot_be_written_to(tokenizer: Tokenizer) -> None:
    """Masks of single texts are one array: a change for one would be a change for all that come."""
    encoder = TextEncoder(tokenizer, SINGLE)
    arrays = encoder.batch(encoder.encode([("refund",)]))
    for name in ("attention_mask", "token_type_ids"):
        with pytest.raises(ValueError, match="read-only"):
            arrays[name][0, 0] = 7


@pytest.mark.parametrize(("side", "kept"), [("right", [2, 4, 4, 5, 3]), ("left", [2, 5, 6, 6, 3])])
def test_long_texts_are_cut_on_the_side_of_the_manifest_and_say_so(
    tokenizer: Tokenizer, side: Any, kept: list[int]
) -> None:
    """A silent cut answers for half a text; the exact limit must not count as cut."""
    encoder = TextEncoder(tokenizer, msgspec.structs.replace(SINGLE, truncation_side=side))
    long, exact = encoder.encode([("refund refund broken thanks thanks",), ("refund refund broken",)])
    assert (long.input_ids, long.was_truncated) == (kept, True)
    assert (len(exact), exact.was_truncated) == (5, False)


def test_padding_and_truncation_of_the_tokenizer_file_do_not_leak_in(tokenizer: Tokenizer) -> None:
    """Files saved by a training run often pad to its max_length: 128 tokens of work for 3."""
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(3)
    (row,) = TextEncoder(tokenizer, SINGLE).encode([("refund broken",)])
    assert row.input_ids == [2, 4, 5, 3]


@pytest.mark.parametrize(
    ("inputs", "text", "message"),
    [
        (SINGLE, ("",), "text 1 is empty"),
        (SINGLE, (" \n\t\u00a0",), "text 1 is empty"),
        (SINGLE, ("a", "b"), r"2 part\(s\).*reads 1 \(text\)"),
        (SINGLE, ("\ud800",), "not valid Unicode"),
        (SINGLE, (None,), "no string but None"),
        (PAIR, ("refund",), r"1 part\(s\).*reads 2 \(premise, hypothesis\)"),
        (PAIR, ("refund", " "), r"empty \(hypothesis\)"),
    ],
)
def test_texts_that_cannot_be_answered_are_named(
    tokenizer: Tokenizer, inputs: InputSpec, text: Any, message: str
) -> None:
    """An empty text gets a confident answer from [CLS][SEP] alone if nobody stops it."""
    good = ("refund",) * len(inputs.text_columns)
    with pytest.raises(UserError, match=message):
        TextEncoder(tokenizer, inputs).encode([good, text])


def test_no_texts_are_no_rows(tokenizer: Tokenizer) -> None:
    """An empty file must not crash the encoder."""
    assert TextEncoder(tokenizer, SINGLE).encode([]) == []


def test_an_input_that_text_cannot_give_is_refused(tokenizer: Tokenizer) -> None:
    """Otherwise the first request fails with a KeyError."""
    with pytest.raises(BundleError, match="pixel_values"):
        TextEncoder(tokenizer, msgspec.structs.replace(SINGLE, names=("input_ids", "pixel_values")))


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_missing_or_broken_tokenizer_file_is_named(tmp_path: Path, content: str | None) -> None:
    """The library raises a bare Exception, which would read as our fault."""
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer"):
        TextEncoder.load(path, SINGLE)
