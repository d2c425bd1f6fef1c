"""A refill changes masked words and nothing else, by pieces of their own kind, the same whatever runs beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from compressor.data import order
from compressor.distillation.augmentation.refill import Refiller, read_pieces, replace_spans, sample_top_k

Toys = Callable[[str], tuple[Any, PreTrainedTokenizerFast]]
Fixed = Callable[..., tuple[Any, Any]]
KINDS = ("wordpiece", "bytes", "metaspace")
pytestmark = pytest.mark.usefixtures("global_random_state_stays")
TEXTS = [
    ("The  card\tnever arrived, please help NOW!\n",),
    ("I don't want $1.50 — why 😀😀 (again)?",),
    (" helping\u00a0helped ordering ﬁne ñandú [MASK] cards",),
    ("card",),
    ("",),
    ("?!",),
    ("the order is late and the money is late and the refund is late and the card is late",),
]


def generators(number: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, row)) for row in range(number)]


def first_side(texts: Sequence[tuple[str, ...]]) -> np.ndarray:
    return np.zeros(len(texts), dtype=np.int64)


def refiller(toy: tuple[Any, Any], **settings: Any) -> Refiller:
    return Refiller(*toy, **{"rate": 0.5, "top_k": 20, "max_length": 64, **settings})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.2, 0.6, 1.0])
def test_white_space_and_the_number_of_words_stay(kind: str, rate: float, toy_masked_lm: Toys) -> None:
    """Catches words that grow together or fall apart: the report compares texts word by word."""
    rewriter = refiller(toy_masked_lm(kind), rate=rate)
    changed = 0
    for seed in range(8):
        after = rewriter.round(TEXTS, first_side(TEXTS), generators(len(TEXTS), seed))
        for (old,), (new,) in zip(TEXTS, after, strict=True):
            assert re.findall(r"\s+", new) == re.findall(r"\s+", old)
            assert len(new.split()) == len(old.split())
            changed += new != old
    assert changed > 8


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_masked_word_changes(kind: str, toy_masked_lm: Toys) -> None:
    """Catches a text that is written anew from its tokens, without its case, accents or spaces."""
    text = "The order is late, and THE card\twas Late  Ñandú now?"
    rewriter = refiller(toy_masked_lm(kind), rate=0.01)
    changed = set()
    for seed in range(40):
        [(after,)] = rewriter.round([(text,)], np.zeros(1, dtype=np.int64), generators(1, seed))
        pairs = list(zip(text.split(), after.split(), strict=True))
        places = [place for place, (old, new) in enumerate(pairs) if old != new]
        assert len(places) <= 1
        changed |= set(places)
    assert len(changed) > 3


def test_pieces_give_way_to_pieces_of_their_own_kind(fixed_lm: Fixed) -> None:
    """Catches 'card##ing', two words grown together at a comma, and special or unused tokens in a text."""
    rewriter = refiller(
        fixed_lm("[MASK]", "[SEP]", "[UNK]", "[unused1]", "##ed", "money", "!", "##ing", "the"), rate=1.0, top_k=1
    )
    [(after,)] = rewriter.round([("Helping, the cards.",)], np.zeros(1, dtype=np.int64), generators(1))
    assert after == "moneyed! money moneyed!"


def test_a_piece_that_comes_back_keeps_its_characters(fixed_lm: Fixed) -> None:
    """Catches an uncased vocabulary that writes words it did not change in lower case."""
    rewriter = refiller(fixed_lm("card", "."), rate=1.0, top_k=1)
    [(after,)] = rewriter.round([("CARD late Card.",)], np.zeros(1, dtype=np.int64), generators(1))
    assert after == "CARD card Card."


def test_the_model_sees_masks_where_it_has_to_guess(fixed_lm: Fixed) -> None:
    """Catches a refill that is told the word it is to replace, or that hides special tokens."""
    model, tokenizer = fixed_lm("card")
    rewriter = refiller((model, tokenizer), rate=1.0)
    rewriter.round([("the order", "now")], np.zeros(1, dtype=np.int64), generators(1))
    assert tokenizer.convert_ids_to_tokens(model.shown[0][0].tolist()) == [
        "[CLS]",
        "[MASK]",
        "[MASK]",
        "[SEP]",
        "now",
        "[SEP]",
    ]


@pytest.mark.parametrize("side", [0, 1])
def test_of_a_pair_the_chosen_side_alone_changes(side: int, toy_masked_lm: Toys) -> None:
    """Catches pairs both of whose texts drift, so that no gold relation between them is left."""
    pairs = [("the card is late now", "my order of money was late")] * 6
    after = refiller(toy_masked_lm("wordpiece"), rate=1.0).round(pairs, np.full(6, side), generators(6))
    assert all(row[1 - side] == pairs[0][1 - side] for row in after)
    assert any(row[side] != pairs[0][side] for row in after)


def test_a_rate_of_zero_gives_the_same_texts(fixed_lm: Fixed) -> None:
    """Catches a control that is no control."""
    model, tokenizer = fixed_lm("card")
    assert refiller((model, tokenizer), rate=0.0).round(TEXTS, first_side(TEXTS), generators(len(TEXTS))) == TEXTS
    assert model.shown == []
    assert refiller((model, tokenizer)).round([], np.zeros(0, dtype=np.int64), []) == []


def test_text_beyond_the_length_stays(toy_masked_lm: Toys) -> None:
    """Catches a long text that comes back cut."""
    text = "order " * 30 + "END"
    rewriter = refiller(toy_masked_lm("wordpiece"), rate=1.0, max_length=10)
    [(after,)] = rewriter.round([(text,)], np.zeros(1, dtype=np.int64), generators(1))
    assert after.split()[8:] == text.split()[8:]
    assert after.split()[:8] != text.split()[:8]


def test_no_more_is_read_than_the_model_has_positions_for(toy_masked_lm: Toys) -> None:
    """Catches an index error deep in an embedding where the recipe's length suits the student alone."""
    model, tokenizer = toy_masked_lm("bytes")
    positions = model.config.max_position_embeddings - 1
    rewriter = refiller((model, tokenizer), max_length=10_000)
    assert rewriter.max_length == positions
    rewriter.round([("x" * 2000,)], np.zeros(1, dtype=np.int64), generators(1))


@pytest.mark.parametrize("kind", KINDS)
def test_refills_depend_on_the_rows_own_generator_alone(
    kind: str, toy_masked_lm: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a draw that depends on what is in the same batch: chunks and length sorting would change candidates."""
    rewriter = refiller(toy_masked_lm(kind))
    texts = TEXTS * 3
    together = rewriter.round(texts, first_side(texts), generators(len(texts)))
    assert together == rewriter.round(texts, first_side(texts), generators(len(texts)))
    alone = [
        rewriter.round([text], np.zeros(1, dtype=np.int64), [own])[0]
        for text, own in zip(texts, generators(len(texts)), strict=True)
    ]
    assert together == alone
    monkeypatch.setattr(order, "TOKENS_PER_BATCH", 40)
    backwards = rewriter.round(texts[::-1], first_side(texts), generators(len(texts))[::-1])
    assert backwards[::-1] == together
    assert rewriter.round(texts, first_side(texts), generators(len(texts), seed=1)) != together


def test_batches_hold_a_limited_number_of_tokens(fixed_lm: Fixed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a thousand long texts in one batch, which no memory holds, and rows of no words that make empty ones."""
    model, tokenizer = fixed_lm("card")
    monkeypatch.setattr(order, "TOKENS_PER_BATCH", 40)
    texts = [("the card " * (1 + row % 9),) for row in range(50)] + [("😀",)] * 30
    refiller((model, tokenizer)).round(texts, first_side(texts), generators(len(texts)))
    assert max(shown.numel() for shown in model.shown) <= 40
    assert sum(len(shown) for shown in model.shown) == 50
    assert len(model.shown) < 50


def test_the_model_stays_in_its_mode_and_takes_no_gradient(toy_masked_lm: Toys) -> None:
    """Catches dropout in refills, and hooks or gradients that are left behind."""
    model, tokenizer = toy_masked_lm("wordpiece")
    refiller((model, tokenizer)).round(TEXTS, first_side(TEXTS), generators(len(TEXTS)))
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_one_of_the_likeliest_tokens_is_drawn_with_its_renormalised_probability() -> None:
    """Catches draws from the whole vocabulary, and top-k that takes the likeliest alone."""
    logits = torch.tensor([[1.0, 4.0, -torch.inf, 2.0, 3.0, 0.0]]).expand(4000, -1)
    lots = torch.from_numpy(np.random.default_rng(0).random(4000))
    drawn = sample_top_k(logits, lots, 3)
    share = torch.bincount(drawn, minlength=6) / 4000
    expected = torch.softmax(torch.tensor([4.0, 2.0, 3.0]), dim=0)
    torch.testing.assert_close(share[[1, 3, 4]], expected, rtol=0, atol=0.03)
    assert share[[0, 2, 5]].sum() == 0
    assert (sample_top_k(logits, lots, 1) == 1).all()


def test_tokens_are_lined_up_by_id() -> None:
    """Catches a draw that two almost equal probabilities, swapped by rounding, would change altogether."""
    logits = torch.tensor([[0.0, 1e-7, 0.0], [1e-7, 0.0, 0.0]])
    lots = torch.tensor([0.4, 0.4], dtype=torch.float64)
    assert sample_top_k(logits, lots, 3).tolist() == [1, 1]
    ends = torch.tensor([0.0, 1.0 - 1e-16], dtype=torch.float64)
    two = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    assert sample_top_k(two.expand(2, -1), ends, 4).tolist() == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_drawn_that_would_show_as_a_token(kind: str, toy_masked_lm: Toys) -> None:
    """Catches texts with [unused1], a word mark, half a character or white space in them."""
    tokenizer = toy_masked_lm(kind)[1]
    pieces = read_pieces(tokenizer, len(tokenizer) + 5)
    drawable = [pieces.written[place] for place in np.flatnonzero(pieces.kinds >= 0)]
    assert len(drawable) > 10
    assert all(text and not any(letter.isspace() for letter in text) for text in drawable)
    assert not any(mark in text for text in drawable for mark in ("##", "Ġ", "▁", "\ufffd", "unused", "[MASK]"))
    assert (pieces.kinds[-5:] == -1).all()
    assert (pieces.kinds[tokenizer.all_special_ids] == -1).all()


@pytest.mark.parametrize(
    ("kind", "starting", "continuing"),
    [("wordpiece", "card", "##ing"), ("bytes", "Ġcard", "ing"), ("metaspace", "▁the", "ed")],
)
def test_the_mark_of_a_vocabulary_tells_starts_from_continuations(
    kind: str, starting: str, continuing: str, toy_masked_lm: Toys
) -> None:
    """Catches a byte vocabulary read as word pieces, of which every refill would grow into the word before."""
    tokenizer = toy_masked_lm(kind)[1]
    pieces = read_pieces(tokenizer, len(tokenizer))
    places = tokenizer.convert_tokens_to_ids([starting, continuing])
    assert pieces.kinds[places].tolist() == [0, 1]
    comma = tokenizer.convert_tokens_to_ids(",")
    assert pieces.kinds[comma] >= 2
    assert [pieces.written[place] for place in places] == [starting.strip("Ġ▁"), continuing.strip("#")]


def test_spans_are_replaced_from_left_to_right() -> None:
    """Catches an offset that moves when a longer word was written before it."""
    spans = np.array([[0, 1], [4, 6], [6, 7]])
    assert replace_spans("a b cd!", spans, ["long", "", "?"]) == "long b ?"
    assert replace_spans("same", np.zeros((0, 2), dtype=np.int64), []) == "same"
