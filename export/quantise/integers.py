"""Arithmetic of 8-bit numbers: scales, zero points and rounding of weights and activations.

Source: Jacob et al. (2018), arXiv:1712.05877, section 2.1: real = scale * (integer - zero point).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
LEVELS = 255
"""The largest uint8."""


@dataclass(frozen=True)
class WeightForm:
    """How weights are written.

    Attributes:
        largest: magnitude of the largest integer: 127, or 64 where products of 8 bits saturate.
        zero: stored integer of the weight 0: 0 for int8, 128 for uint8.
    """

    largest: int
    zero: int

    @property
    def dtype(self) -> type[np.int8] | type[np.uint8]:
        """Of the stored integers."""
        return np.uint8 if self.zero else np.int8


SIGNED_8 = WeightForm(largest=127, zero=0)
SIGNED_7 = WeightForm(largest=64, zero=0)
UNSIGNED_8 = WeightForm(largest=127, zero=128)


def quantise_columns(weight: Floats, form: WeightForm) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Weights with one scale per column, zero in the middle.

    Args:
        weight: [inputs, outputs].
        form: of the result.

    Returns:
        Integers [inputs, outputs] and scales [outputs]; a column of zeros keeps scale 1.
    """
    scales = _scales(np.abs(weight).max(axis=0), form.largest)
    return _rounded(weight / scales, form), scales


def quantise_rows(table: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A table with one scale per row: int8 [rows, width] and scales [rows, 1]."""
    scales = _scales(np.abs(table).max(axis=1, keepdims=True), SIGNED_8.largest)
    return _rounded(table / scales, SIGNED_8), scales


def quantise_blocks(weight: Floats, block: int, form: WeightForm) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Weights with one scale per block of inputs of every output, as `MatMulNBits` reads them.

    Args:
        weight: [inputs, outputs]; inputs are filled up with zeros to whole blocks.
        block: inputs that share a scale.
        form: of the result.

    Returns:
        Integers [outputs, blocks, block] and scales [outputs, blocks].
    """
    inputs, outputs = weight.shape
    filled = np.pad(weight, ((0, -inputs % block), (0, 0)))
    blocks = np.ascontiguousarray(filled.T).reshape(outputs, -1, block)
    scales = _scales(np.abs(blocks).max(axis=2), form.largest)
    return _rounded(blocks / scales[..., None], form), scales


def affine(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 activations between two values; the range is widened to hold 0.

    Args:
        low: smallest value that is told apart.
        high: largest one; at least `low`.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return np.float32(1.0), np.uint8(0)
    scale = np.float32((high - low) / LEVELS)
    return scale, np.uint8(np.clip(np.round(-low / float(scale)), 0, LEVELS))


def _scales(largest: Floats, level: int) -> NDArray[np.float32]:
    """Scales; 1 where all is zero, or too small for a scale of its own."""
    scales = largest.astype(np.float64) / level
    return np.where(scales >= np.finfo(np.float32).tiny, scales, 1.0).astype(np.float32)


def _rounded(scaled: Floats, form: WeightForm) -> NDArray[Any]:
    return (np.clip(np.round(scaled), -form.largest, form.largest) + form.zero).astype(form.dtype)
