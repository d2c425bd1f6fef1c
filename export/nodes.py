"""Reading and replacing the parts of a graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Value = TypeVar("Value")


def attribute_of(node: onnx.NodeProto, name: str, default: Value) -> Value:
    """An attribute of a node, or what the operator takes without it."""
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def has_branches(graph: onnx.GraphProto) -> bool:
    """Whether a node has a graph of its own (If, Loop, Scan): it may read any tensor without saying so."""
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(attribute.type in kinds for node in graph.node for attribute in node.attribute)


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Put other nodes into a graph; some of them may have been its own."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Take out nodes and constants that lead to no output, and what was known of shapes: some are others now."""
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    replace_nodes(graph, reversed(kept))
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in needed:
            del graph.initializer[place]  # in its place: a copy of all weights would be large
    del graph.value_info[:]


def add_constants(graph: onnx.GraphProto, tensors: Iterable[onnx.TensorProto]) -> None:
    """Add constants that the graph does not have yet."""
    known = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in tensors if tensor.name not in known)


def constant_array(node: onnx.NodeProto) -> NDArray[Any]:
    """What a `Constant` node gives."""
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
