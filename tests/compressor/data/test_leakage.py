"""Which texts count as the same."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.data.leakage import count_duplicates, normalise, text_keys


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Where is  my card?", "where is my card"),
        ("it's", "It s"),
        ("ﬁne", "FINE"),
        ("STRASSE", "straße"),
        ("a\u00a0b\n", "a b"),
        ("no - way", "no way"),
    ],
)
def test_copies_that_differ_in_dress_are_found(one: str, other: str) -> None:
    """A copy that only lost its question mark is as well known by heart."""
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("a b", "ab"), ("C++", "C"), ("great 👍", "great 👎"), ("?", "!")])
def test_other_texts_stay_apart(one: str, other: str) -> None:
    """Rows dropped for a copy they are not are data lost."""
    assert normalise(one) != normalise(other)
    assert normalise(one)


def test_pairs_are_the_same_in_either_order_and_as_pairs_only() -> None:
    """A paraphrase asked the other way round is the same question; glued texts are not."""
    keys = text_keys([("a", "b"), ("B", "A."), ("a b", ""), ("ab",), ("a", "c")])
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_duplicates_and_conflicts_are_counted() -> None:
    """Rows that repeat, and texts that are labelled two ways, are counted apart."""
    keys = text_keys([("a",), ("A",), ("b",), ("b!",), ("b",), ("c",)])
    assert count_duplicates(keys, np.array([0, 0, 1, 2, 1, 0])) == (3, 1)
    matrix = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 0]], dtype=np.float32)
    assert count_duplicates(keys, matrix) == (3, 0)
