"""What a written graph holds: which layers have fewer bits, which not and why, and how many bytes they take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import onnx

from export.quantise.layers import FLOAT_BYTES, Layer
from export.quantise.replacement import SCALE_SUFFIX
from serving.exclusion import Exclusion

_STORED: dict[int, tuple[str, int]] = {
    onnx.TensorProto.FLOAT: ("fp32", 4),
    onnx.TensorProto.FLOAT16: ("fp16", 2),
    onnx.TensorProto.INT8: ("int8", 1),
    onnx.TensorProto.UINT8: ("int8", 1),
    onnx.TensorProto.INT64: ("int64", 8),
}
_PARTS = ("", "_int8", "_blocks", "_scale", "_scales", "_zero", SCALE_SUFFIX)


class LayerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One layer in a written graph.

    Attributes:
        layer: its name.
        role: what it does, for example attention query.
        block: number of the encoder layer; None outside of them.
        weights: number of weights.
        stored: fp32, fp16 or int8, as the file has it.
        reason: why it is fp32; None where it is not.
        expected_bytes: of the weights alone in the precision's bits; as fp32 where that was to be expected.
        actual_bytes: of the tensors in the file, scales and zero points included.
    """

    layer: str
    role: str
    block: int | None
    weights: int
    stored: str
    reason: str | None
    expected_bytes: int
    actual_bytes: int


class QuantisationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a graph's layers.

    Attributes:
        operators: by kind (`MatMul` with `Gemm`, `Gather`), how many of them read weights of fewer bits.
        layers: all of them, in the graph's order.
        exclusion: which of them were left in fp32 by choice.
        fallbacks: other nodes that stayed fp32, with the reason; for fp16.
        expected_bytes: of the file's tensors, if every layer that can took the precision's bytes per weight.
        actual_bytes: of the written file.
    """

    operators: dict[str, int]
    layers: tuple[LayerFacts, ...]
    exclusion: Exclusion
    fallbacks: dict[str, str] = {}
    expected_bytes: int
    actual_bytes: int

    @property
    def num_quantised(self) -> int:
        """All operators that read weights of fewer bits."""
        return sum(self.operators.values())

    @property
    def left_fp32(self) -> tuple[str, ...]:
        """Names of the layers that stayed fp32."""
        return tuple(facts.layer for facts in self.layers if facts.stored == "fp32")


def summarise(
    plain: onnx.ModelProto,
    layers: Sequence[Layer],
    written: onnx.ModelProto,
    *,
    actual_bytes: int,
    exclusion: Exclusion,
    fallbacks: Mapping[str, str] | None = None,
) -> QuantisationSummary:
    """Read from a written graph what became of the layers of the plain one."""
    width = 2 if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in written.graph.initializer) else 1
    tensors = {tensor.name: tensor for tensor in written.graph.initializer}
    facts = tuple(_facts(layer, tensors, width, exclusion, fallbacks or {}) for layer in layers)
    of_layers = {layer.weight: layer for layer in layers}
    rest = sum(_bytes(tensor) for tensor in plain.graph.initializer if tensor.name not in of_layers)
    return QuantisationSummary(
        operators=count_quantised(written),
        layers=facts,
        exclusion=exclusion,
        fallbacks=dict(fallbacks or {}),
        expected_bytes=rest + sum(_expected(layer, width) for layer in of_layers.values()),
        actual_bytes=actual_bytes,
    )


def count_quantised(model: onnx.ModelProto) -> dict[str, int]:
    """By kind, how many operators of a graph read weights of fewer bits than fp32; empty for an fp32 graph."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    small = {name for name, kind in kinds.items() if _STORED.get(kind, ("", 8))[1] < FLOAT_BYTES}
    again = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in small
    }
    products = ("MatMul", "Gemm", "MatMulInteger", "MatMulNBits")
    counted = Counter(
        "Gather" if node.op_type == "Gather" else "MatMul"
        for node in model.graph.node
        if (node.op_type in products and node.input[1] in small | again)
        or (node.op_type == "Gather" and node.input[0] in small)
    )
    return dict(counted)


def _facts(
    layer: Layer,
    tensors: Mapping[str, onnx.TensorProto],
    width: int,
    exclusion: Exclusion,
    fallbacks: Mapping[str, str],
) -> LayerFacts:
    found = [tensors[name] for part in _PARTS if (name := f"{layer.weight}{part}") in tensors]
    stored = "fp32" if layer.weight in tensors else "int8"
    if layer.weight in tensors:
        stored = _STORED[tensors[layer.weight].data_type][0]
    return LayerFacts(
        layer=layer.name,
        role=layer.role,
        block=layer.block,
        weights=layer.num_weights,
        stored=stored,
        reason=_reason(layer, exclusion, fallbacks) if stored == "fp32" else None,
        expected_bytes=_expected(layer, width),
        actual_bytes=sum(_bytes(tensor) for tensor in found),
    )


def _reason(layer: Layer, exclusion: Exclusion, fallbacks: Mapping[str, str]) -> str:
    if layer.obstacle:
        return layer.obstacle
    for node in layer.nodes:
        if node in fallbacks:
            return fallbacks[node]
    if layer.name in exclusion.layers:
        return "left in fp32 for the gate" if exclusion.mode == "auto" else "left in fp32 by the recipe"
    return "nothing asked for it: this should not be"


def _expected(layer: Layer, width: int) -> int:
    return layer.num_weights * (FLOAT_BYTES if layer.obstacle else width)


def _bytes(tensor: onnx.TensorProto) -> int:
    return int(math.prod(tensor.dims)) * _STORED.get(tensor.data_type, ("other", FLOAT_BYTES))[1]
