"""How far two graphs of text inputs are apart, on a few shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.session import create_session

LIMIT = 1e-4
"""Up to so much, relative to the logits, two fp32 graphs say the same; only the order of their sums differs."""
SHAPES = ((1, 1), (1, 7), (3, 16))


def relative_difference(first: Path, second: Path, shapes: Sequence[tuple[int, int]] = SHAPES) -> float:
    """Largest difference of two graphs' outputs, as a multiple of the largest output, at least of 1.

    Args:
        first: a graph's file.
        second: another one of the same inputs and outputs.
        shapes: (batch, tokens) of the inputs; the last row of several is padded by half.

    Returns:
        Infinity where shapes differ or a number is none.
    """
    sessions = [create_session(path) for path in (first, second)]
    worst = 0.0
    for batch, tokens in shapes:
        inputs = random_inputs([node.name for node in sessions[0].get_inputs()], batch, tokens)
        for ours, theirs in zip(*(session.run(None, inputs) for session in sessions), strict=True):
            if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
                return math.inf
            worst = max(worst, float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max()))))
    return worst


def random_inputs(names: Sequence[str], batch: int, tokens: int) -> Mapping[str, NDArray[np.int64]]:
    """Ids from the start of any vocabulary, int64 [batch, tokens]; the last of several rows is padded by half."""
    ids = np.random.default_rng(0).integers(2, 5, size=(batch, tokens))
    mask = np.ones_like(ids)
    if batch > 1:
        mask[-1, tokens // 2 :] = 0
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: arrays[name] for name in names}
