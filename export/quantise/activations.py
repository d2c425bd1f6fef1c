"""What flows through a graph on real texts: histograms and largest magnitudes of its inner tensors.

Texts run one by one, so no padding is counted, and only histograms are kept: memory does not grow with the
number of texts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.quantise.layers import Layer, node_name
from export.quantise.ranges import Histogram, histogram_of, merge
from export.watched import watching_session
from serving.tokenise import Encoding, TextEncoder


def input_histograms(
    plain: onnx.ModelProto, layers: Sequence[Layer], encoder: TextEncoder, encodings: Sequence[Encoding]
) -> dict[str, Histogram]:
    """Histograms of what matrix products are given.

    Args:
        plain: an fp32 graph.
        layers: of it.
        encoder: makes batches.
        encodings: at least one text.

    Returns:
        By the name of the input, which several products may share.
    """
    found: dict[str, Histogram] = {}
    for values in _run_each(plain, source_names(plain, layers), encoder, encodings):
        for name, array in values.items():
            new = histogram_of(array)
            found[name] = merge(found[name], new) if name in found else new
    return found


def largest_magnitudes(plain: onnx.ModelProto, encoder: TextEncoder, encodings: Sequence[Encoding]) -> dict[str, float]:
    """Largest absolute value of every float tensor that a node of the graph computes, by the tensor's name."""
    found: dict[str, float] = {}
    for values in _run_each(plain, _float_names(plain), encoder, encodings):
        for name, array in values.items():
            found[name] = max(found.get(name, 0.0), float(np.abs(array).max(initial=0.0)))
    return found


def source_names(plain: onnx.ModelProto, layers: Sequence[Layer]) -> dict[str, str]:
    """From the name of a product's node to the tensor that it is given."""
    nodes = {name for layer in layers if layer.is_product for name in layer.nodes}
    return {node_name(node): str(node.input[0]) for node in plain.graph.node if node_name(node) in nodes}


def _float_names(plain: onnx.ModelProto) -> dict[str, str]:
    """All tensors that nodes compute and whose inferred type is float, by themselves."""
    inferred = onnx.shape_inference.infer_shapes(plain)
    kinds = {
        value.name: value.type.tensor_type.elem_type for value in (*inferred.graph.value_info, *plain.graph.output)
    }
    computed = [name for node in plain.graph.node for name in node.output]
    return {name: name for name in computed if kinds.get(name) == onnx.TensorProto.FLOAT}


def _run_each(
    plain: onnx.ModelProto, wanted: dict[str, str], encoder: TextEncoder, encodings: Sequence[Encoding]
) -> Iterator[dict[str, NDArray[Any]]]:
    """The wanted tensors of every text by itself."""
    names = list(dict.fromkeys(wanted.values()))
    with tempfile.TemporaryDirectory() as folder:
        session = watching_session(plain, names, Path(folder))
        for encoding in encodings:
            yield dict(zip(names, session.run(names, encoder.batch([encoding])), strict=True))
