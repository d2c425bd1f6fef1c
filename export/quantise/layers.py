"""The layers of a plain fp32 graph that have constant weights: what they are called, what they do, how large they are.

A layer is a matrix product with a constant right side, or a table that is read by row. Products of two
activations (the scores and contexts of attention) have no weights and are no layers.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.nodes import attribute_of
from serving.errors import UserError

_ROLES = (
    (r"word_embeddings", "word embedding"),
    (r"position_embeddings", "position embedding"),
    (r"token_type_embeddings", "type embedding"),
    (r"rel_embeddings|relative_attention_bias", "relative positions"),
    (r"pooler|pre_classifier", "pooler"),
    (r"(_head|classifier)(/|$)", "head"),
    (r"(query|q_lin|query_proj|attn/q|pos_query_proj)$", "attention query"),
    (r"(key|k_lin|key_proj|attn/k|pos_key_proj)$", "attention key"),
    (r"(value|v_lin|value_proj|attn/v)$", "attention value"),
    (r"(attention/output/dense|out_lin|attn/o)$", "attention output"),
    (r"(intermediate/dense|lin1)$", "feed-forward in"),
    (r"(layer\.\d+/output/dense|lin2)$", "feed-forward out"),
    (r"embeddings", "embedding projection"),
)
"""The first pattern that is found in a layer's path names its role; encoders call the same parts differently."""

_WEIGHT_AT = {"MatMul": 1, "Gemm": 1, "Gather": 0}
"""Operators with weights, and which operand these are."""

_BLOCK = re.compile(r"layer\.(\d+)")
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: where it stands in the model, for example `encoder/layer.0/attention/self/query`.
        role: attention query, key, value or output, feed-forward in or out, an embedding, pooler, head or other.
        block: number of the encoder layer; None outside of them.
        kind: MatMul, Gemm or Gather.
        nodes: names of its nodes; several where its weights are read in several places.
        weight: name of its weights.
        shape: of the weights, (inputs, outputs) of a product, (rows, width) of a table.
        is_turned: whether the graph holds the weights as [outputs, inputs].
        obstacle: why it cannot be quantised; None where it can.
    """

    name: str
    role: str
    block: int | None
    kind: str
    nodes: tuple[str, ...]
    weight: str
    shape: tuple[int, int]
    is_turned: bool = False
    obstacle: str | None = None

    @property
    def num_weights(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)

    @property
    def is_product(self) -> bool:
        """A matrix product, not a table."""
        return self.kind != "Gather"


def load_plain(path: Path) -> onnx.ModelProto:
    """Read a graph whose nodes read their weights themselves: torch hands weights of two uses on by an Identity."""
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    copies = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Identity" and node.input[0] in weights
    }
    kept = [node for node in model.graph.node if node.output[0] not in copies]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = copies.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """Every layer of a plain graph, in the order of its nodes; what reads the same weights is one layer."""
    weights = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
    }
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            if name in weights:
                readers.setdefault(name, []).append(node)
    return [
        _layer(nodes, weights[name], _obstacle(name, found))
        for name, found in readers.items()
        if (nodes := [node for node in found if node.op_type in _WEIGHT_AT and weight_of(node) == name])
    ]


def choose_layers(layers: Sequence[Layer], patterns: Sequence[str]) -> list[Layer]:
    """The layers whose name or role fits one of some shell patterns, such as `*layer.0*`, `*query` or `head`.

    Raises:
        UserError: a pattern fits no layer.
    """
    for pattern in patterns:
        if not any(_fits(layer, pattern) for layer in layers):
            names = ", ".join(dict.fromkeys(name for layer in layers for name in (layer.role, layer.name)))
            raise UserError(
                f"export.exclude: no layer is called '{pattern}'. Choose names, roles or patterns of: {names}"
            )
    return [layer for layer in layers if any(_fits(layer, pattern) for pattern in patterns)]


def node_name(node: onnx.NodeProto) -> str:
    """A node's name, or its first output where it has none."""
    return str(node.name or node.output[0])


def weight_of(node: onnx.NodeProto) -> str | None:
    """The operand where a node's operator has its weights; None for other operators."""
    place = _WEIGHT_AT.get(node.op_type)
    return None if place is None else str(node.input[place])


def _fits(layer: Layer, pattern: str) -> bool:
    return fnmatch.fnmatchcase(layer.name, pattern) or fnmatch.fnmatchcase(layer.role, pattern)


def _layer(nodes: list[onnx.NodeProto], weight: onnx.TensorProto, obstacle: str | None) -> Layer:
    first = nodes[0]
    path = _path(node_name(first))
    bare = re.sub(r"/(MatMul|Gemm|Gather)_\d+$", "", path)
    block = _BLOCK.search(path)
    rows, columns = weight.dims
    is_turned = first.op_type == "Gemm" and _attribute(first, "transB", 0) == 1
    return Layer(
        name=path,
        role=next((role for pattern, role in _ROLES if re.search(pattern, bare)), "other"),
        block=int(block.group(1)) if block else None,
        kind=str(first.op_type),
        nodes=tuple(node_name(node) for node in nodes),
        weight=weight.name,
        shape=(columns, rows) if is_turned else (rows, columns),
        is_turned=is_turned,
        obstacle=obstacle,
    )


def _path(name: str) -> str:
    """A node's name without the wrapper around the model and without its operator."""
    path = re.sub(r"/(MatMul|Gemm|Gather)$", "", name).removeprefix("/")
    return path.removeprefix("model/").removeprefix("encoder/")


def _obstacle(weight: str, readers: Sequence[onnx.NodeProto]) -> str | None:
    """Why a layer cannot be quantised; None where it can."""
    if len({node.op_type for node in readers}) > 1 or any(weight_of(node) != weight for node in readers):
        return "its weights are read in different ways"
    if any(node.op_type == "Gather" and _attribute(node, "axis", 0) for node in readers):
        return "its table is not read by row"
    if any(node.op_type == "Gemm" and not _is_plain(node) for node in readers):
        return "its operator scales or turns its inputs"
    return None


def _is_plain(node: onnx.NodeProto) -> bool:
    return (_attribute(node, "transA", 0), *_factors(node)) == (0, 1.0, 1.0)


def _factors(node: onnx.NodeProto) -> tuple[float, float]:
    return float(_attribute(node, "alpha", 1.0)), float(_attribute(node, "beta", 1.0))


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    return float(attribute_of(node, name, default))
