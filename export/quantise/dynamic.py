"""Dynamic int8: the scale of the activations is found at run time, over the whole batch.

The fastest form on CPUs; a neighbour in the batch can change an answer, since the scale spans both. The nodes
are those that ONNX Runtime's own quantiser writes, because the runtime fuses exactly these.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from export.quantise.integers import WeightForm, quantise_columns
from export.quantise.layers import Layer
from export.quantise.replacement import Product, Replacement, make


def dynamic_product(form: WeightForm) -> Product:
    """Products whose activations are quantised by `DynamicQuantizeLinear`."""

    def replace(layer: Layer, weight: NDArray[np.float32], source: str, output: str) -> Replacement:
        integers, scales = quantise_columns(weight, form)
        names = [f"{layer.weight}_{part}" for part in ("int8", "scale", "zero")]
        quantised, scale, zero = (f"{source}_{part}" for part in ("quantised", "scale", "zero"))
        summed, as_float, both = (f"{output}_{part}" for part in ("sum", "sum_float", "sum_scale"))
        nodes = [
            make("DynamicQuantizeLinear", [source], [quantised, scale, zero]),
            make("MatMulInteger", [quantised, names[0], zero, names[2]], [summed]),
            make("Cast", [summed], [as_float], to=onnx.TensorProto.FLOAT),
            make("Mul", [scale, names[1]], [both]),
            make("Mul", [as_float, both], [output]),
        ]
        zeros = np.full(weight.shape[1], form.zero, dtype=form.dtype)
        return Replacement(nodes, dict(zip(names, (integers, scales, zeros), strict=True)))

    return replace
