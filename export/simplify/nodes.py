"""Reading and replacing the parts of a graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import onnx
from onnx import helper

Value = TypeVar("Value")


def attribute_of(node: onnx.NodeProto, name: str, default: Value) -> Value:
    """An attribute of a node, or what the operator takes without it."""
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def replace_parts(field: Any, parts: Iterable[Any]) -> None:
    """Put other parts into a repeated field of a graph; they may have been its own."""
    copies = [type(part).FromString(part.SerializeToString()) for part in parts]
    del field[:]
    field.extend(copies)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Take out nodes and constants that lead to no output."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    replace_parts(graph.node, reversed(kept))
    replace_parts(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
