"""Weight-only int8: `MatMulNBits` with 8 bits, a scale per block of weights.

Accuracy level 4 quantises the activations too, but each block of each row by itself, so no neighbour has a
part in it. The operator is ONNX Runtime's own (domain com.microsoft): other runtimes cannot read such a graph.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.quantise.integers import UNSIGNED_8, WeightForm, quantise_blocks
from export.quantise.layers import Layer
from export.quantise.replacement import Product, Replacement, make

DOMAIN = "com.microsoft"
ACCURACY_LEVEL = 4
BLOCKS = (128, 64, 32)
"""Larger blocks ran a little faster and make smaller files; the error grows slowly with them."""


def weight_product(form: WeightForm = UNSIGNED_8, block: int | None = None) -> Product:
    """Products of blocks of weights.

    Args:
        form: unsigned: the operator takes 128 for zero.
        block: weights that share a scale, a power of two from 16 on; None: the one of `BLOCKS` that fits best.
    """

    def replace(layer: Layer, weight: NDArray[np.float32], source: str, output: str) -> Replacement:
        inputs, outputs = weight.shape
        size = block or fitting_block(inputs)
        integers, scales = quantise_blocks(weight, size, form)
        names = [f"{layer.weight}_{part}" for part in ("blocks", "scales")]
        node = make(
            "MatMulNBits",
            [source, *names],
            [output],
            domain=DOMAIN,
            K=inputs,
            N=outputs,
            bits=8,
            block_size=size,
            accuracy_level=ACCURACY_LEVEL,
        )
        return Replacement([node], dict(zip(names, (integers, scales), strict=True)))

    return replace


def fitting_block(inputs: int) -> int:
    """The block that needs least filling for so many inputs; of several the largest."""
    return min(BLOCKS, key=lambda block: (-inputs % block, -block))
