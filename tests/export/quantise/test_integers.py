"""Scales and integers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from export.quantise.integers import (
    SIGNED_7,
    SIGNED_8,
    UNSIGNED_8,
    WeightForm,
    affine,
    quantise_blocks,
    quantise_columns,
    quantise_rows,
)

WEIGHT = np.array([[1.27, -0.5], [-0.3, 0.25]], dtype=np.float32)
FORMS = {"signed": SIGNED_8, "seven bits": SIGNED_7, "unsigned": UNSIGNED_8}
small = st.floats(-8, 8, width=32)


def test_columns_of_two_by_two_by_hand() -> None:
    """Catches a scale per row, a scale per matrix, or a scale from the largest signed value."""
    integers, scales = quantise_columns(WEIGHT, SIGNED_8)
    np.testing.assert_allclose(scales, [1.27 / 127, 0.5 / 127], rtol=1e-6)
    np.testing.assert_array_equal(integers, [[127, -127], [-30, 64]])  # -0.3 / 0.01; 0.25 / (0.5 / 127) = 63.5
    assert integers.dtype == np.int8


def test_seven_bits_and_unsigned_by_hand() -> None:
    """Catches 7-bit weights that reach 127, where sums saturate, and a zero that is not stored as 128."""
    seven, scales = quantise_columns(WEIGHT, SIGNED_7)
    np.testing.assert_allclose(scales, [1.27 / 64, 0.5 / 64], rtol=1e-6)
    np.testing.assert_array_equal(seven, [[64, -64], [-15, 32]])
    unsigned, _ = quantise_columns(WEIGHT, UNSIGNED_8)
    np.testing.assert_array_equal(unsigned, [[255, 1], [98, 192]])
    assert unsigned.dtype == np.uint8


def test_rows_and_blocks_by_hand() -> None:
    """Catches blocks along the outputs, and a filling of whole blocks that is not zero."""
    rows, scales = quantise_rows(WEIGHT)
    np.testing.assert_allclose(scales, [[1.27 / 127], [0.3 / 127]], rtol=1e-6)
    np.testing.assert_array_equal(rows, [[127, -50], [-127, 106]])
    blocks, scales = quantise_blocks(np.array([[1.27], [0.5], [-0.3]], dtype=np.float32), 2, UNSIGNED_8)
    np.testing.assert_allclose(scales, [[1.27 / 127, 0.3 / 127]], rtol=1e-6)
    np.testing.assert_array_equal(blocks, [[[255, 178], [1, 128]]])


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [(-1.0, 1.55, 0.01, 100), (0.0, 2.55, 0.01, 0), (1.0, 2.55, 0.01, 0), (-2.55, -1.0, 0.01, 255), (0.0, 0.0, 1.0, 0)],
)
def test_the_range_of_an_activation_always_holds_zero(low: float, high: float, scale: float, zero: int) -> None:
    """Catches padding and ReLU zeros that come back as something else."""
    found = affine(low, high)
    assert found[0] == pytest.approx(scale)
    assert found[1] == zero
    assert isinstance(found[0], np.float32)
    assert isinstance(found[1], np.uint8)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@given(weight=arrays(np.float32, (5, 3), elements=small))
def test_every_weight_comes_back_within_half_a_step(weight: NDArray[np.float32], form: WeightForm) -> None:
    """Catches clipping, truncation instead of rounding, and a zero point that is forgotten on one side."""
    integers, scales = quantise_columns(weight, form)
    again = (integers.astype(np.int64) - form.zero) * scales.astype(np.float64)
    assert np.all(np.abs(again - weight) <= scales / 2 * 1.001 + 1e-30)
    assert np.all(np.abs(integers.astype(int) - form.zero) <= form.largest)


def test_zeros_stay_zeros_with_a_scale_of_one() -> None:
    """Catches a division by zero that fills a padding row with NaN."""
    for quantise in (lambda zeros: quantise_columns(zeros, SIGNED_8), quantise_rows):
        integers, scales = quantise(np.zeros((2, 2), dtype=np.float32))
        assert not integers.any()
        assert (scales == 1).all()
