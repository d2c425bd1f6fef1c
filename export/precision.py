"""Dynamic int8: weights of matrix products and embeddings as bytes, with a count of what really became int8.

Weights are signed with one scale per output channel (half the error of one scale per matrix, at the same
speed), embeddings with one per row (`export.embeddings`); activations get their scale at run time from the
whole batch, so a neighbour can change an answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.embeddings import SCALE_SUFFIX, quantise_embeddings
from export.quiet import quiet_logging
from serving.errors import UserError
from serving.host import cpu_features, saturates_int8

QUANTISED_TYPES = ("MatMul", "Gemm", "Gather")
"""Operators whose constant weights become int8: linear layers and embeddings."""

INT8_TYPES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
MIN_WEIGHTS = 1024
"""Smaller tables are left out of the count of what should be quantised: biases, scalars, position rows."""


class QuantisationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What became int8.

    Attributes:
        operators: by kind (`MatMul` with `Gemm`, `Gather`), how many of them read int8 weights.
        left_fp32: names of the weights of such operators that stayed fp32.
        expected_bytes: of the weights, if every weight of these operators took one byte.
        actual_bytes: of the written file.
    """

    operators: dict[str, int]
    left_fp32: tuple[str, ...]
    expected_bytes: int
    actual_bytes: int

    @property
    def num_quantised(self) -> int:
        """All operators that read int8 weights."""
        return sum(self.operators.values())


def quantise(
    source: Path, target: Path, *, exclude: Sequence[str] = (), reduce_range: bool | None = None
) -> QuantisationSummary:
    """Write the int8 form of a plain fp32 graph.

    Args:
        source: a graph as `export_graph` writes it.
        target: the file to write.
        exclude: names of nodes that stay fp32.
        reduce_range: 7-bit weights, for CPUs whose 8-bit products saturate (AVX2 and AVX-512 without VNNI); None: if
            this CPU is one of them.

    Raises:
        UserError: nothing in the graph could be quantised.
    """
    plain = onnx.load(source)
    expected = _expected_bytes(plain)
    with quiet_logging():
        quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=saturates_int8(cpu_features()) if reduce_range is None else reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(exclude),
        )
    quantised = onnx.load(target)
    quantise_embeddings(quantised, exclude)
    _forget_shapes(quantised)
    onnx.save_model(quantised, str(target))
    summary = QuantisationSummary(
        operators=_int8_operators(quantised),
        left_fp32=_left_fp32(quantised),
        expected_bytes=expected,
        actual_bytes=target.stat().st_size,
    )
    if not summary.num_quantised:
        target.unlink()
        raise UserError(
            f"nothing in {source.name} could be quantised: it has no {', '.join(QUANTISED_TYPES)} with "
            "constant weights outside the excluded nodes. Leave int8 out of export.precisions."
        )
    return summary


def opset_of(path: Path) -> int:
    """The opset of the default domain that a graph needs."""
    return next(int(entry.version) for entry in onnx.load(path).opset_import if entry.domain in ("", "ai.onnx"))


def ir_version_of(path: Path) -> int:
    """The IR version of a graph."""
    return int(onnx.load(path).ir_version)


def count_int8_operators(path: Path) -> dict[str, int]:
    """By kind, how many operators of a graph read int8 weights; empty for an fp32 graph."""
    return _int8_operators(onnx.load(path))


def _forget_shapes(model: onnx.ModelProto) -> None:
    """Drop the quantiser's notes on intermediate shapes.

    With them ONNX Runtime fuses SkipLayerNormalization when it loads the graph, which is slower here: without
    them int8 graphs ran 10 to 15% faster.
    """
    del model.graph.value_info[:]


def _weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _weight_of(node: onnx.NodeProto) -> str:
    """The operand that holds a node's weights: the table of a Gather, the right side of a product."""
    return str(node.input[0 if node.op_type == "Gather" else 1])


def _expected_bytes(plain: onnx.ModelProto) -> int:
    """Bytes of all weights, those of quantised operators counted as one byte each."""
    weights = _weights(plain)
    small = {_weight_of(node) for node in plain.graph.node if node.op_type in QUANTISED_TYPES}
    return sum(
        math.prod(tensor.dims) * (1 if name in small and tensor.data_type == onnx.TensorProto.FLOAT else 4)
        for name, tensor in weights.items()
    )


def _int8_operators(model: onnx.ModelProto) -> dict[str, int]:
    weights = _weights(model)
    kinds = {"MatMulInteger": "MatMul", "Gather": "Gather"}
    return dict(
        Counter(
            kinds[node.op_type]
            for node in model.graph.node
            if node.op_type in kinds
            and (weight := weights.get(_weight_of(node))) is not None
            and weight.data_type in INT8_TYPES
        )
    )


def _left_fp32(model: onnx.ModelProto) -> tuple[str, ...]:
    weights = _weights(model)
    names = (_weight_of(node) for node in model.graph.node if node.op_type in QUANTISED_TYPES)
    return tuple(
        name
        for name in dict.fromkeys(names)
        if name in weights
        and not name.endswith(SCALE_SUFFIX)
        and weights[name].data_type == onnx.TensorProto.FLOAT
        and math.prod(weights[name].dims) >= MIN_WEIGHTS
    )
