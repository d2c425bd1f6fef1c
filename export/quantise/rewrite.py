"""Graphs in which layers are replaced, or stand beside their replacement with a switch between the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.quantise.embeddings import rows_by_scale
from export.quantise.layers import Layer, node_name
from export.quantise.replacement import Product, Replacement, make, tensors_of

Weights = NDArray[np.float32]
_Place = Callable[[onnx.NodeProto, Layer, Weights], Replacement]


def rewrite(plain: onnx.ModelProto, layers: Sequence[Layer], product: Product) -> onnx.ModelProto:
    """A copy of a plain graph in which some layers have fewer bits; weights that nothing reads are left out.

    The notes on intermediate shapes are dropped: with them ONNX Runtime fuses SkipLayerNormalization when it
    loads the graph, and int8 graphs ran 10 to 15% slower.
    """

    def place(node: onnx.NodeProto, layer: Layer, weight: Weights) -> Replacement:
        return _replacement(node, layer, weight, product, output=node.output[0])

    return _transformed(plain, layers, place)


def switchable(plain: onnx.ModelProto, layers: Sequence[Layer], product: Product) -> onnx.ModelProto:
    """A copy in which each of some layers is computed both ways and a bool input picks the result.

    One session then answers for any choice of quantised layers; `switch_of` names the inputs.
    """

    def place(node: onnx.NodeProto, layer: Layer, weight: Weights) -> Replacement:
        output = node.output[0]
        exact, coarse = f"{output}_exact", f"{output}_coarse"
        replaced = _replacement(node, layer, weight, product, output=coarse)
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        kept.output[0] = exact
        return Replacement(
            [kept, *replaced.nodes, make("Where", [switch_of(layer), coarse, exact], [output])], replaced.tensors
        )

    model = _transformed(plain, layers, place)
    model.graph.input.extend(
        helper.make_tensor_value_info(switch_of(layer), onnx.TensorProto.BOOL, []) for layer in layers
    )
    return model


def switch_of(layer: Layer) -> str:
    """Name of the input that switches a layer to fewer bits."""
    return f"quantise:{layer.name}"


def _replacement(node: onnx.NodeProto, layer: Layer, weight: Weights, product: Product, *, output: str) -> Replacement:
    """The nodes that compute what a layer's node computes, a Gemm's bias included."""
    if not layer.is_product:
        return rows_by_scale(layer, weight, node.input[1], output)
    turned = np.ascontiguousarray(weight.T) if layer.is_turned else weight
    if layer.kind == "MatMul" or len(node.input) < 3:
        return product(layer, turned, node.input[0], output)
    inner = product(layer, turned, node.input[0], f"{output}_product")
    return Replacement([*inner.nodes, make("Add", [f"{output}_product", node.input[2]], [output])], inner.tensors)


def _transformed(plain: onnx.ModelProto, layers: Sequence[Layer], place: _Place) -> onnx.ModelProto:
    layer_of = {name: layer for layer in layers for name in layer.nodes}
    weights = {tensor.name: tensor for tensor in plain.graph.initializer}
    parts = [
        place(node, layer_of[name], numpy_helper.to_array(weights[layer_of[name].weight]))
        if (name := node_name(node)) in layer_of
        else Replacement([node], {})
        for node in plain.graph.node
    ]
    nodes = {node_name(node): node for part in parts for node in part.nodes}
    tensors = {tensor.name: tensor for part in parts for tensor in tensors_of(part)}
    return _assembled(plain, list(nodes.values()), list(tensors.values()))


def _assembled(
    plain: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], tensors: Sequence[onnx.TensorProto]
) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in plain.graph.initializer if tensor.name in read]
    graph = helper.make_graph(
        list(nodes), plain.graph.name, list(plain.graph.input), list(plain.graph.output), [*kept, *tensors]
    )
    return helper.make_model(
        graph,
        opset_imports=list(_opsets(plain, nodes)),
        ir_version=plain.ir_version,
        producer_name=plain.producer_name,
        producer_version=plain.producer_version,
    )


def _opsets(plain: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.OperatorSetIdProto]:
    yield from plain.opset_import
    known = {entry.domain for entry in plain.opset_import}
    yield from (helper.make_opsetid(domain, 1) for domain in sorted({node.domain for node in nodes} - known - {""}))
