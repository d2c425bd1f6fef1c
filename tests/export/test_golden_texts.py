"""The texts that every bundle is replayed with."""

from __future__ import annotations

import re

from export.golden_texts import golden_texts
from serving.golden import LARGE_SET, SHORT_SET


def test_there_are_enough_texts_for_the_larger_set_and_all_differ() -> None:
    """A text given twice is checked once."""
    texts = golden_texts(("text",))
    assert len(texts) >= LARGE_SET >= 64
    assert len(set(texts)) == len(texts)
    assert all(len(text) == 1 and text[0].strip() for text in texts)


def test_lengths_reach_from_one_word_to_more_than_any_model_reads() -> None:
    """The last word beyond max_length shows whether the right end is cut."""
    lengths = [len(re.findall(r"\w+|[^\w\s]", text[0])) for text in golden_texts(("text",))]
    assert min(lengths) == 1
    assert max(lengths) > 512
    short = lengths[:SHORT_SET]
    assert min(short) == 1
    assert max(short) > 30


def test_pairs_are_made_of_two_different_texts() -> None:
    """A pair of equal texts cannot show that its parts were swapped."""
    pairs = golden_texts(("premise", "hypothesis"))
    assert len(pairs) >= LARGE_SET
    assert all(len(pair) == 2 and pair[0] != pair[1] for pair in pairs)
