"""Special tokens and padding are never masked, words are masked whole, and no more tokens than the rate says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from compressor.distillation.augmentation.masking import (
    TextTokens,
    draw_mask,
    maskable_tokens,
    num_masked,
    read_tokens,
)

NOTHING_FIXED = np.zeros(100, dtype=bool)


@dataclass(frozen=True)
class Encoded:
    """What a tokenizer says of one row."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    word_ids: list[int | None]
    sequence_ids: list[int | None]


def pair() -> tuple[Encoded, tuple[str, ...]]:
    """[CLS] help ##ing , [SEP] now help [SEP] [PAD]."""
    encoded = Encoded(
        ids=[2, 10, 11, 12, 3, 13, 10, 3, 0],
        offsets=[(0, 0), (0, 4), (4, 7), (7, 8), (0, 0), (0, 3), (4, 8), (0, 0), (0, 0)],
        word_ids=[None, 0, 0, 1, None, 0, 1, None, None],
        sequence_ids=[None, 0, 0, 0, None, 1, 1, None, None],
    )
    return encoded, ("helping,", "now help")


def tokens_of(spans: list[tuple[int, int]], words: list[int] | None = None) -> TextTokens:
    size = len(spans)
    return TextTokens(
        ids=np.arange(size),
        sides=np.zeros(size, dtype=np.int64),
        spans=np.array(spans),
        words=np.arange(size) if words is None else np.array(words),
    )


@pytest.mark.parametrize(("side", "expected"), [(0, [1, 2, 3]), (1, [5, 6])])
def test_only_tokens_of_the_chosen_side_may_be_masked(side: int, expected: list[int]) -> None:
    """Catches masked separators or padding, and a pair of which both texts drift."""
    encoded, texts = pair()
    assert np.flatnonzero(maskable_tokens(read_tokens(encoded, texts), side, NOTHING_FIXED)).tolist() == expected


def test_ids_that_are_fixed_stay() -> None:
    """Catches an unknown word that is masked and, with it, an emoji or a name that is lost."""
    encoded, texts = pair()
    is_fixed = NOTHING_FIXED.copy()
    is_fixed[10] = True
    assert np.flatnonzero(maskable_tokens(read_tokens(encoded, texts), 0, is_fixed)).tolist() == [2, 3]


def test_the_pieces_of_a_word_share_a_number_and_no_other_token_has_it() -> None:
    """Catches half a word that is replaced, and words of two sides that are taken for one."""
    encoded, texts = pair()
    words = read_tokens(encoded, texts).words.tolist()
    assert words[1] == words[2]
    assert len(set(words)) == len(words) - 1


def test_a_word_ends_at_white_space_whatever_the_tokenizer_calls_a_word() -> None:
    """Catches a tokenizer to which the whole text is one word: every rate would mask all of it."""
    encoded = Encoded([5, 6, 7], [(0, 4), (4, 9), (9, 12)], [0, 0, 0], [0, 0, 0])
    tokens = read_tokens(encoded, ("card late ing",))
    assert tokens.words[0] != tokens.words[1]
    inside = Encoded([5, 6], [(0, 4), (4, 7)], [0, 0], [0, 0])
    words = read_tokens(inside, ("carding",)).words
    assert words[0] == words[1]


def test_white_space_at_the_edges_of_a_token_is_no_part_of_it() -> None:
    """Catches words that grow together because the space before a word belonged to its token."""
    encoded = Encoded([5, 6, 7], [(0, 4), (4, 9), (9, 11)], [0, 1, 2], [0, 0, 0])
    tokens = read_tokens(encoded, ("card late \t",))
    assert tokens.spans.tolist() == [[0, 4], [5, 9], [11, 11]]
    assert maskable_tokens(tokens, 0, NOTHING_FIXED).tolist() == [True, True, False]
    ending = read_tokens(Encoded([5], [(0, 5)], [0], [0]), ("card ",))
    assert ending.spans.tolist() == [[0, 4]]


def test_a_token_with_white_space_in_it_stays() -> None:
    """Catches a refill of one word for two, which would change the number of words."""
    tokens = read_tokens(Encoded([5], [(0, 8)], [0], [0]), ("new york",))
    assert not maskable_tokens(tokens, 0, NOTHING_FIXED).any()


def test_tokens_that_share_characters_stay() -> None:
    """Catches the two halves of a ligature, or the bytes of one character, replaced one without the other."""
    tokens = tokens_of([(0, 2), (2, 3), (2, 3), (3, 5)])
    assert maskable_tokens(tokens, 0, NOTHING_FIXED).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("maskable", "rate", "expected"),
    [(10, 0.3, 3), (10, 0.26, 3), (10, 0.24, 2), (10, 0.04, 1), (10, 1.0, 10), (10, 0.0, 0), (0, 0.5, 0), (1, 0.1, 1)],
)
def test_the_number_of_masked_tokens_is_the_rounded_rate_and_at_least_one(
    maskable: int, rate: float, expected: int
) -> None:
    """Catches a rate of 0 that masks a token all the same, and short texts that are never changed."""
    assert num_masked(maskable, rate) == expected


def test_the_rate_counts_tokens_that_may_be_masked() -> None:
    """Catches special tokens and the other side counted in: short texts would be masked far beyond the rate."""
    is_maskable = np.arange(20) < 10
    for seed in range(20):
        drawn = draw_mask(is_maskable, np.arange(20), 0.3, np.random.default_rng(seed))
        assert drawn.sum() == 3
        assert not (drawn & ~is_maskable).any()


@pytest.mark.parametrize("seed", range(30))
def test_words_are_masked_whole_and_within_the_rate(seed: int) -> None:
    """Catches a guess of '##ing' after its word is still there, and long words that break the rate."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 4, size=12)
    words = np.repeat(np.arange(12), sizes)
    rate = float(generator.uniform(0.2, 0.9))
    drawn = draw_mask(np.ones(len(words), dtype=bool), words, rate, generator)
    assert {int(drawn[words == word].sum()) for word in range(12)} <= {0, 1, 2, 3}
    assert all(drawn[words == word].all() or not drawn[words == word].any() for word in range(12))
    allowed = num_masked(len(words), rate)
    assert drawn.sum() <= allowed
    untouched = [size for word, size in enumerate(sizes) if not drawn[words == word].any()]
    assert not untouched or min(untouched) > allowed - drawn.sum(), "a further word would still have fitted"


def test_where_no_whole_word_fits_the_shortest_one_is_masked() -> None:
    """Catches texts of long words that no round ever changes."""
    words = np.repeat([0, 1, 2], [4, 3, 5])
    for seed in range(10):
        drawn = draw_mask(np.ones(12, dtype=bool), words, 0.1, np.random.default_rng(seed))
        assert (words[drawn] == 1).all()
        assert drawn.sum() == 3


def test_every_word_is_masked_equally_often() -> None:
    """Catches a draw that prefers the beginning of a text."""
    counts = np.zeros(10)
    for seed in range(2000):
        counts += draw_mask(np.ones(10, dtype=bool), np.arange(10), 0.3, np.random.default_rng(seed))
    assert np.abs(counts / 2000 - 0.3).max() < 0.05


def test_a_rate_of_zero_or_an_empty_text_masks_nothing() -> None:
    """Catches a control without augmentation that changes texts."""
    assert not draw_mask(np.ones(5, dtype=bool), np.arange(5), 0.0, np.random.default_rng(0)).any()
    assert draw_mask(np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64), 0.5, np.random.default_rng(0)).shape == (0,)
    assert not draw_mask(np.zeros(3, dtype=bool), np.arange(3), 1.0, np.random.default_rng(0)).any()


def test_the_same_generator_state_draws_the_same_tokens() -> None:
    """Catches a draw from a global generator."""
    masks = [draw_mask(np.ones(40, dtype=bool), np.arange(40), 0.4, np.random.default_rng(seed)) for seed in (7, 7, 8)]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()
