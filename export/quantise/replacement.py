"""What stands for a layer's nodes in a graph of fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.quantise.layers import Layer

SCALE_SUFFIX = "_row_scale"


@dataclass(frozen=True)
class Replacement:
    """Nodes in their order and the tensors they read.

    Nodes and tensors of the same name are the same: a neighbour with the same input shares them.
    """

    nodes: Sequence[onnx.NodeProto]
    tensors: Mapping[str, NDArray[np.generic]]


Product = Callable[[Layer, NDArray[np.float32], str, str], Replacement]
"""(layer, weights [inputs, outputs], name of its input, name of its output) -> the product in fewer bits."""


def make(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    """A node that is named after its first output."""
    return helper.make_node(operator, list(inputs), list(outputs), name=f"{outputs[0]}_{operator}", **attributes)


def tensors_of(replacement: Replacement) -> list[onnx.TensorProto]:
    """The tensors as a graph holds them."""
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in replacement.tensors.items()]
