"""The last layer for the first token alone, where the heads read no other.

What a token's row becomes depends on the other tokens only through attention's keys and values. So where all readers
of the last hidden states take the first row, the products, norms and activations behind attention, and the queries
before it, are computed for that row; what the other tokens need no more is not computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.nodes import add_constants, attribute_of, replace_nodes
from export.simplify.observed import Observed

Axes = Sequence[int | None]
"""Per input of a node, the axis along which its first entry is enough; None where all of it is needed."""

_BY_ENTRY = frozenset(
    ["Abs", "Add", "Cast", "Div", "Erf", "Exp", "Gelu", "Mul", "Neg", "Pow", "Relu", "Sigmoid", "Sqrt", "Sub", "Tanh"]
)
_START, _END = "first_token_start", "first_token_end"


def keep_first_token(model: onnx.ModelProto, observed: Observed) -> int:
    """Compute one token where only the first one is read; returns how many nodes that makes smaller.

    Args:
        model: without branches: what they read cannot be seen.
        observed: of this model.
    """
    reads: dict[str, set[int | None]] = defaultdict(set)
    smaller: dict[str, Axes] = {}
    for value in model.graph.output:
        reads[value.name].add(None)
    for node in reversed(model.graph.node):
        axis = _axis_read(node, reads)
        axes: Axes | None = None
        if _takes_first(node, observed):
            axes = [1, None]
        elif axis is not None and observed.spreads(node.output[0], axis):
            axes = _axes_needed(node, axis, observed)
            if axes is not None:
                smaller[node.output[0]] = axes
        for place, name in enumerate(node.input):
            reads[name].add(None if axes is None else axes[place])
    if smaller:
        _cut(model, smaller)
    return len(smaller)


def _axis_read(node: onnx.NodeProto, reads: dict[str, set[int | None]]) -> int | None:
    """The axis along which all readers take a node's first entry; None where one needs more, or for several outputs."""
    wanted = reads[node.output[0]]
    return next(iter(wanted)) if len(node.output) == len(wanted) == 1 else None


def _takes_first(node: onnx.NodeProto, observed: Observed) -> bool:
    """Whether a node reads the first token of hidden states [batch, tokens, width] and nothing else."""
    if node.op_type != "Gather" or attribute_of(node, "axis", 0) != 1 or observed.rank(node.input[0]) != 3:
        return False
    index = observed.constants.get(node.input[1])
    return index is not None and index.ndim == 0 and int(index) == 0


def _axes_needed(node: onnx.NodeProto, axis: int, observed: Observed) -> Axes | None:
    """What the first entry of a node's output is made of, along an axis with several; None for all of all inputs."""
    rank = observed.rank(node.output[0])
    if rank is None:
        return None
    alone: Axes = [axis] + [None] * (len(node.input) - 1)
    if node.op_type in _BY_ENTRY:
        return [_broadcast_axis(name, axis, rank, observed) for name in node.input]
    if node.op_type in ("LayerNormalization", "Softmax"):
        return alone if axis < attribute_of(node, "axis", -1) % rank else None
    if node.op_type == "ReduceMean":  # of a norm that is written out, below opset 17: not over this axis, which spreads
        return alone if attribute_of(node, "keepdims", 1) else None
    if node.op_type == "MatMul":
        return alone if axis == rank - 2 and observed.rank(node.input[0]) == rank else None
    if node.op_type == "Transpose":
        return [attribute_of(node, "perm", list(reversed(range(rank))))[axis]]
    if node.op_type == "Reshape":
        shape = observed.constants.get(node.input[1])
        return alone if shape is not None and not shape[: axis + 1].any() else None  # 0: the input's own size
    return None


def _broadcast_axis(name: str, axis: int, rank: int, observed: Observed) -> int | None:
    """The axis of an operand that lies along the result's; None where it has none, or one entry for all."""
    own_rank = observed.rank(name)
    own = axis - rank + own_rank if own_rank is not None else -1
    return own if own >= 0 and observed.spreads(name, own) else None


def _cut(model: onnx.ModelProto, smaller: dict[str, Axes]) -> None:
    """Take the first entry where a smaller node reads what is still whole."""
    cuts: dict[tuple[str, int], onnx.NodeProto] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        for place, axis in enumerate(smaller.get(node.output[0], ())):
            name = node.input[place]
            if axis is None or name in smaller:
                continue
            if (name, axis) not in cuts:
                cuts[name, axis] = _first_entry(name, axis)
                nodes.append(cuts[name, axis])
            node.input[place] = cuts[name, axis].output[0]
        nodes.append(node)
    numbers = {_START: 0, _END: 1} | {_axis_name(axis): axis for _, axis in cuts}
    replace_nodes(model.graph, nodes)
    add_constants(
        model.graph,
        [numpy_helper.from_array(np.array([number], dtype=np.int64), name) for name, number in numbers.items()],
    )


def _first_entry(name: str, axis: int) -> onnx.NodeProto:
    output = f"{name}_first_{axis}"
    return helper.make_node("Slice", [name, _START, _END, _axis_name(axis)], [output], name=output)


def _axis_name(axis: int) -> str:
    return f"first_token_axis_{axis}"
