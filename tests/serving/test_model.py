"""What a model says is checked before anybody reads it."""

from __future__ import annotations

import numpy as np
import pytest

from serving.model import FEW_LOGITS, _is_finite

LARGEST = np.finfo(np.float32).max


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf]])
@pytest.mark.parametrize("size", [2, FEW_LOGITS, FEW_LOGITS + 1])
def test_numbers_that_are_none_are_found_among_few_and_many(size: int, bad: list[float]) -> None:
    """Infinities of both signs must not cancel, and few logits are looked at in another way than many."""
    logits = np.full((1, size), 0.5, np.float32)
    logits[0, -len(bad) :] = bad
    assert not _is_finite(logits)


@pytest.mark.parametrize("size", [1, FEW_LOGITS, FEW_LOGITS + 1])
def test_the_largest_numbers_are_numbers(size: int) -> None:
    """Their sum would be none in the precision of the graph."""
    assert _is_finite(np.full((1, size), LARGEST, np.float32))
