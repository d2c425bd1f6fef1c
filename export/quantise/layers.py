"""The layers of a plain fp32 graph that have constant weights: what they are called, what they do, how large they are.

A layer is a matrix product with a constant right side, or a table that is read by row. Products of two
activations (the scores and contexts of attention) have no weights and are no layers.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

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
        nodes: names of its nodes; several where a table is read in several places.
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


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """Every layer of a plain graph, in the order of its nodes."""
    tables = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
    }
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in {*node.input} & tables.keys():
            readers.setdefault(name, []).append(node)
    return list(_layers(model, tables, readers))


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


def _fits(layer: Layer, pattern: str) -> bool:
    return fnmatch.fnmatchcase(layer.name, pattern) or fnmatch.fnmatchcase(layer.role, pattern)


def _layers(
    model: onnx.ModelProto, tables: dict[str, onnx.TensorProto], readers: dict[str, list[onnx.NodeProto]]
) -> Iterator[Layer]:
    seen: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in tables:
            yield _layer([node], tables[node.input[1]], _product_obstacle(node))
        elif node.op_type == "Gather" and node.input[0] in tables.keys() - seen:
            seen.add(node.input[0])
            lookups = [reader for reader in readers[node.input[0]] if reader.op_type == "Gather"]
            yield _layer(lookups, tables[node.input[0]], _table_obstacle(node.input[0], readers[node.input[0]]))


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


def _product_obstacle(node: onnx.NodeProto) -> str | None:
    if node.op_type == "Gemm" and (_attribute(node, "transA", 0), *_factors(node)) != (0, 1.0, 1.0):
        return "its operator scales or turns its inputs"
    return None


def _factors(node: onnx.NodeProto) -> tuple[float, float]:
    return float(_attribute(node, "alpha", 1.0)), float(_attribute(node, "beta", 1.0))


def _table_obstacle(table: str, readers: Sequence[onnx.NodeProto]) -> str | None:
    if all(node.op_type == "Gather" and node.input[0] == table and not _attribute(node, "axis", 0) for node in readers):
        return None
    return "its table is read in other ways than by row"


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    if found is None:
        return default
    return float(onnx.helper.get_attribute_value(found))
