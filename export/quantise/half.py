"""fp16 graphs for GPUs: every operator in 16-bit floats but those that would overflow or have no such kernel.

A 16-bit float ends at 65504. Whether a tensor gets there is looked up on real texts in the fp32 graph; the nodes
that write such a tensor stay fp32 and are named. Attention masks are filled with the most negative float: they
are clipped to -65504, which a softmax sends to zero as well.

ONNX Runtime's CPU provider has few 16-bit kernels and inserts casts around the rest, so on a CPU such a graph
shows the accuracy of fp16 and not its speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from export.quantise.layers import node_name
from export.quiet import quiet_logging

LARGEST_HALF = 65504.0
MASK_FILL = 1e30
"""What is larger than this is a mask's filling and no number that was computed."""


@dataclass(frozen=True)
class Fallbacks:
    """Nodes that stay fp32 in an fp16 graph.

    Attributes:
        overflow: by node, the largest magnitude that it read or wrote, beyond what fp16 holds.
        without_kernel: nodes whose operator has no fp16 form.
    """

    overflow: Mapping[str, float]
    without_kernel: Sequence[str]

    @property
    def nodes(self) -> list[str]:
        """All of them."""
        return [*self.overflow, *self.without_kernel]

    @property
    def reasons(self) -> dict[str, str]:
        """Why each of them stays, by node."""
        overflow = {
            name: f"met {largest:.3g}, fp16 ends at {LARGEST_HALF:g}" for name, largest in self.overflow.items()
        }
        return overflow | dict.fromkeys(self.without_kernel, "its operator has no fp16 form")


def find_fallbacks(plain: onnx.ModelProto, magnitudes: Mapping[str, float], headroom: float = 2.0) -> Fallbacks:
    """The nodes that must stay fp32: those that write what fp16 cannot hold, and those that read it.

    Args:
        plain: an fp32 graph.
        magnitudes: largest absolute value of its tensors on real texts.
        headroom: how many times larger a value may get on other texts.
    """
    overflow = {
        node_name(node): largest
        for node in plain.graph.node
        if LARGEST_HALF / headroom < (largest := _largest(node, magnitudes)) < MASK_FILL
    }
    blocked = [node_name(node) for node in plain.graph.node if node.op_type in DEFAULT_OP_BLOCK_LIST]
    return Fallbacks(overflow, [name for name in blocked if name not in overflow])


def to_half(plain: onnx.ModelProto, fallbacks: Fallbacks) -> onnx.ModelProto:
    """A copy of a plain graph in 16-bit floats; its inputs and outputs keep their types."""
    copy = onnx.ModelProto()
    copy.CopyFrom(plain)
    with quiet_logging():
        model: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True, node_block_list=fallbacks.nodes)
    del model.graph.value_info[:]
    _join_neighbours(model)
    return model


def _join_neighbours(model: onnx.ModelProto) -> None:
    """Let two neighbours in fp32 hand over fp32: the converter casts to fp16 between them, which would overflow."""
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    direct = {
        output: casts[node.input[0]].input[0]
        for output, node in casts.items()
        if _casts_to(node, onnx.TensorProto.FLOAT)
        and node.input[0] in casts
        and _casts_to(casts[node.input[0]], onnx.TensorProto.FLOAT16)
    }
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = direct.get(name, name)


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return any(attribute.name == "to" and attribute.i == kind for attribute in node.attribute)


def _largest(node: onnx.NodeProto, magnitudes: Mapping[str, float]) -> float:
    """The largest that it reads or writes: a reader in fp16 would be given infinity."""
    return max((magnitudes.get(name, 0.0) for name in (*node.input, *node.output)), default=0.0)
