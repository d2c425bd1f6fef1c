"""What a graph has to do for given texts: operations, bytes of weights, and where its time goes.

Counted from a profile of ONNX Runtime: it names every operator that really ran, after the runtime's own fusions,
with the shapes of its inputs and outputs and its time. Only matrix products count as operations; the rest of a
transformer is less than a hundredth of them, though not of the time.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnxruntime
from onnx import numpy_helper

from export.runners import Inputs

PRODUCTS = {
    "fp32": ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention", "MultiHeadAttention"),
    "int8": (
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QLinearMatMul",
        "QGemm",
        "MatMulNBits",
        "QAttention",
    ),
}
"""Operators that are matrix products, by the kind of arithmetic."""

_KINDS = {operator: kind for kind, operators in PRODUCTS.items() for operator in operators}
_WHOLE_ATTENTION = ("Attention", "QAttention")
_LOOKUPS = ("Gather", "GatherBlockQuantized")


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the graph did for all the batches together.

    Attributes:
        operations: by kind of arithmetic (fp32, int8); a product and a sum are two.
        weight_bytes: that one call reads at least: all weights but the rows of embeddings that are not asked for.
        texts: in the batches.
        calls: number of batches.
        product_seconds: in matrix products.
        other_seconds: by operator, of all others.
        call_seconds: from the beginning of each call to its end, the time between operators included.
    """

    operations: dict[str, float]
    weight_bytes: int
    texts: int
    calls: int
    product_seconds: float
    other_seconds: dict[str, float]
    call_seconds: float


def count_work(path: Path, batches: Sequence[Inputs]) -> Work:
    """Run batches through a graph on one thread, with ONNX Runtime's profiler.

    Args:
        path: the graph.
        batches: its inputs, at least one.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for batch in batches:
            session.run(None, dict(batch))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    texts = sum(len(batch[session.get_inputs()[0].name]) for batch in batches)
    return work_of(events, weight_bytes=count_weight_bytes(path), texts=texts, calls=len(batches))


def work_of(events: Sequence[Mapping[str, Any]], *, weight_bytes: int, texts: int, calls: int) -> Work:
    """Read the events of a profile."""
    operations = {"fp32": 0.0, "int8": 0.0}
    seconds: defaultdict[str, float] = defaultdict(float)
    for event in (event for event in events if event["name"].endswith("_kernel_time")):
        operator = event["args"]["op_name"]
        seconds[operator] += event["dur"] / 1e6
        if operator in _KINDS:
            operations[_KINDS[operator]] += product_operations(operator, event["args"])
    slowest_first = sorted(seconds, key=lambda operator: -seconds[operator])
    return Work(
        operations=operations,
        weight_bytes=weight_bytes,
        texts=texts,
        calls=calls,
        product_seconds=sum(seconds[operator] for operator in slowest_first if operator in _KINDS),
        other_seconds={name: seconds[name] for name in slowest_first if name not in _KINDS},
        call_seconds=sum(event["dur"] / 1e6 for event in events if event["name"] == "model_run"),
    )


def product_operations(operator: str, facts: Mapping[str, Any]) -> float:
    """Operations of one matrix product, or of a fused attention's several.

    Args:
        operator: a member of `PRODUCTS`.
        facts: of the profile, with the shapes of inputs and outputs.
    """
    inputs, outputs = _shapes(facts["input_type_shape"]), _shapes(facts["output_type_shape"])
    if operator == "MultiHeadAttention":
        return _attention_operations(inputs[0])
    if operator in _WHOLE_ATTENTION:
        return 2.0 * prod(inputs[0]) * inputs[1][-1] + _attention_operations(inputs[0])
    return 2.0 * prod(outputs[0]) * inputs[0][-1]


def _attention_operations(shape: Sequence[int]) -> float:
    """Queries by keys, and weights by values, for states [batch, tokens, width]."""
    batch, tokens, width = shape
    return 4.0 * batch * tokens**2 * width


def _shapes(described: Sequence[Mapping[str, Sequence[int]]]) -> list[Sequence[int]]:
    """`[{"float": [1, 7, 384]}, ...]` without the types."""
    return [shape for one in described for shape in one.values()]


def count_weight_bytes(path: Path) -> int:
    """Bytes of all weights of a graph but those that are only looked up by row."""
    graph = onnx.load(str(path)).graph
    looked_up = {node.input[0] for node in graph.node if node.op_type in _LOOKUPS}
    kept = (tensor for tensor in graph.initializer if tensor.name not in looked_up)
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in kept)
