"""Which tokens of a text are masked: never special ones or padding, of a pair one side alone, and whole words.

Masking whole words is that of the second release of BERT (Devlin et al. 2019, arXiv:1810.04805); the rest is ours.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

NO_SIDE = -1


class Encoding(Protocol):
    """What is read of a `tokenizers.Encoding`: one row's tokens."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""

    @property
    def offsets(self) -> Sequence[tuple[int, int]]:
        """Characters of each token, counted in the text of its side."""

    @property
    def word_ids(self) -> Sequence[int | None]:
        """Word of each token, counted in the text of its side; None for special tokens."""

    @property
    def sequence_ids(self) -> Sequence[int | None]:
        """Side of each token; None for special tokens and padding."""


@dataclass(frozen=True)
class TextTokens:
    """The tokens of one row, as far as masking reads them.

    Attributes:
        ids: int64 [tokens].
        sides: 0, 1 for the second text of a pair, or -1 for special tokens and padding, int64 [tokens].
        spans: first character and the one behind the last, counted in the text of the token's side, int64 [tokens, 2].
            White space around a token is left out; a token that has nothing else, or has white space in it, has
            an empty span.
        words: a number per token, the same for the pieces of one word and for no others, int64 [tokens].
    """

    ids: np.ndarray
    sides: np.ndarray
    spans: np.ndarray
    words: np.ndarray


def read_tokens(encoding: Encoding, texts: tuple[str, ...]) -> TextTokens:
    """One row's tokens, with the texts that they were made from.

    A word ends where the tokenizer says so, and at white space also where it does not.
    """
    sides = np.array([NO_SIDE if side is None else side for side in encoding.sequence_ids], dtype=np.int64)
    spans = np.zeros((len(sides), 2), dtype=np.int64)
    is_first = np.ones(len(sides), dtype=bool)
    before: tuple[int, int | None] | None = None
    for place, (side, word, offsets) in enumerate(
        zip(sides.tolist(), encoding.word_ids, encoding.offsets, strict=True)
    ):
        if side != NO_SIDE:
            spans[place] = start, _end = _visible(texts[side], offsets)
            is_first[place] = (side, word) != before or (start > 0 and texts[side][start - 1].isspace())
        before = (side, word)
    return TextTokens(np.array(encoding.ids, dtype=np.int64), sides, spans, np.cumsum(is_first))


def _visible(text: str, offsets: tuple[int, int]) -> tuple[int, int]:
    start, end = offsets
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    while start < end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1  # an accent that the tokenizer strips belongs to the letter before it
    return (start, end) if text[start:end].split() == [text[start:end]] else (start, start)


def maskable_tokens(tokens: TextTokens, side: int, is_fixed: np.ndarray) -> np.ndarray:
    """The tokens of one side that may be masked.

    Left as they are: special tokens and padding, tokens whose id is fixed, tokens without a character of their own,
    and tokens that share characters with a neighbour, since one of them cannot be replaced without the other.

    Args:
        tokens: of one row.
        side: 0, or 1 for the second text of a pair.
        is_fixed: bool [vocabulary], ids that are never replaced.

    Returns:
        bool [tokens].
    """
    starts, ends = tokens.spans.T
    overlaps = (starts[1:] < ends[:-1]) & (tokens.sides[1:] == tokens.sides[:-1])
    is_shared = np.append(overlaps, False) | np.append(False, overlaps)
    return np.asarray((tokens.sides == side) & ~is_fixed[tokens.ids] & (starts < ends) & ~is_shared)


def num_masked(num_maskable: int, rate: float) -> int:
    """How many tokens to mask: `rate` of them, rounded, and at least one where the rate is above 0 and there is any."""
    if num_maskable == 0 or rate == 0.0:
        return 0
    return max(1, int(rate * num_maskable + 0.5))


def draw_mask(is_maskable: np.ndarray, words: np.ndarray, rate: float, generator: np.random.Generator) -> np.ndarray:
    """Draw the tokens to mask, whole words at a time.

    Words are taken in random order as long as their tokens still fit into the number that the rate allows. Where none
    fits, the first of the shortest ones is taken all the same.

    Args:
        is_maskable: bool [tokens].
        words: int64 [tokens], see `TextTokens`.
        rate: rho, in [0, 1].
        generator: is moved by one permutation of the words that can be masked.

    Returns:
        bool [tokens], a part of `is_maskable`.
    """
    names, sizes = np.unique(words[is_maskable], return_counts=True)
    order = generator.permutation(len(names))
    left = num_masked(int(is_maskable.sum()), rate)
    if left == 0:
        return np.zeros_like(is_maskable)
    taken: list[int] = []
    for word in order.tolist():
        if sizes[word] <= left:
            taken.append(word)
            left -= int(sizes[word])
    if not taken:
        taken = [int(order[np.argmin(sizes[order])])]
    return is_maskable & np.isin(words, names[taken])
