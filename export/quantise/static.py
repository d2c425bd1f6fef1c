"""Static int8: activations have fixed ranges that were found on training texts (QDQ).

A text's scale does not depend on its neighbours. What lies outside a range is clipped; `export.quantise.clipping`
says how ranges are chosen, and the doctor says how much was clipped.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from export.quantise.integers import WeightForm, affine, quantise_columns
from export.quantise.layers import Layer
from export.quantise.replacement import Product, Replacement, make


def static_product(form: WeightForm, ranges: Mapping[str, tuple[float, float]]) -> Product:
    """Products whose activations have fixed ranges.

    Args:
        form: of the weights.
        ranges: of every input, by its name in the graph.
    """

    def replace(layer: Layer, weight: NDArray[np.float32], source: str, output: str) -> Replacement:
        integers, scales = quantise_columns(weight, form)
        scale, zero = affine(*ranges[source])
        names = [f"{layer.weight}_{part}" for part in ("int8", "scale", "zero")]
        range_names = [f"{source}_{part}" for part in ("scale", "zero")]
        zeros = np.full(weight.shape[1], form.zero, dtype=form.dtype)
        nodes = [
            make("QuantizeLinear", [source, *range_names], [f"{source}_quantised"]),
            make("DequantizeLinear", [f"{source}_quantised", *range_names], [f"{source}_again"]),
            make("DequantizeLinear", names, [f"{layer.weight}_again"], axis=1),
            make("MatMul", [f"{source}_again", f"{layer.weight}_again"], [output]),
        ]
        tensors = dict(zip(names, (integers, scales, zeros), strict=True))
        return Replacement(nodes, {**tensors, range_names[0]: np.array(scale), range_names[1]: np.array(zero)})

    return replace
