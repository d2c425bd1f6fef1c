"""Reshapes that are told their shape once, where a traced graph computes it from the batch and the length each time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from export.nodes import add_constants, attribute_of
from export.simplify.observed import Observed, Shapes

COPIED, FILLED = 0, -1
"""What ONNX's Reshape reads as: the input's own size on this axis, and whatever is left."""


def fix_shapes(model: onnx.ModelProto, observed: Observed) -> int:
    """Give every reshape a constant shape that has one; returns how many got it."""
    found = {}
    for node in model.graph.node:
        if node.op_type != "Reshape" or attribute_of(node, "allowzero", 0) or node.input[1] not in observed.values:
            continue
        shape = _constant_shape(observed.values[node.input[1]], observed.shapes[node.input[0]])
        if shape.count(FILLED) <= 1:
            node.input[1] = f"{node.output[0]}_shape"
            found[node.input[1]] = np.array(shape, dtype=np.int64)
    add_constants(model.graph, [numpy_helper.from_array(array, name) for name, array in found.items()])
    return len(found)


def _constant_shape(wanted: Sequence[Sequence[int]], given: Shapes) -> list[int]:
    """What says the same in every run: a number, the input's own size, or else what is left."""
    shape = []
    for axis, sizes in enumerate(zip(*wanted, strict=True)):
        if len(set(sizes)) == 1:
            shape.append(int(sizes[0]))
        elif all(axis < len(other) and size == other[axis] for size, other in zip(sizes, given, strict=True)):
            shape.append(COPIED)
        else:
            shape.append(FILLED)
    return shape
