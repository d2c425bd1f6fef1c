"""Which int8 kernels ONNX Runtime takes on a CPU, told from its instruction sets, and whether they saturate, tried out.

Source of the table: ONNX Runtime's choice of kernels, onnxruntime/core/mlas/lib/platform.cpp. A table may be wrong
about a virtual machine, an emulator or next year's CPU; the product that is tried cannot be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from serving.host import cpu_features, saturates_int8

UNKNOWN_KERNELS = "unknown"
INT8_KERNELS: tuple[tuple[str, frozenset[str]], ...] = (
    ("amx", frozenset({"amx_tile", "amx_int8"})),
    ("avx512 vnni", frozenset({"avx512_vnni"})),
    ("avx vnni", frozenset({"avx_vnni"})),
    ("avx512 without vnni", frozenset({"avx512f", "avx512bw", "avx512vl"})),
    ("avx2 without vnni", frozenset({"avx2"})),
    ("sse4.1", frozenset({"sse4_1"})),
    ("arm i8mm", frozenset({"i8mm"})),
    ("arm dotprod", frozenset({"asimddp"})),
    ("arm neon", frozenset({"asimd"})),
)
"""Classes of kernels, the best first, with the instruction sets that each of them needs."""

SATURATING_KERNELS = frozenset({"avx512 without vnni", "avx2 without vnni", "sse4.1"})
"""Those that add two products of uint8 by int8 in 16 bits."""

_LARGEST_UINT8, _LARGEST_INT8, _DEPTH, _WIDTH = 255, 127, 64, 32
_ROWS = (1, 8)
"""A vector times a matrix has kernels of its own."""

_UINT8, _INT8, _INT32 = 2, 3, 6
"""ONNX's numbers of the element types."""


def int8_kernels(features: Sequence[str]) -> str:
    """The class of int8 kernels of a CPU with these instruction sets (see `serving.host.cpu_features`)."""
    found = set(features)
    return next((name for name, needed in INT8_KERNELS if needed <= found), UNKNOWN_KERNELS)


@cache
def measured_saturation() -> bool | None:
    """Whether a product of the largest 8-bit numbers comes out wrong on this CPU; None without ONNX Runtime.

    The exact sums are known: 64 products of 255 by 127. A kernel that adds pairs of them in 16 bits gives about half.
    """
    try:
        import onnxruntime as runtime
    except ImportError:
        return None
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(product_graph(), options, providers=["CPUExecutionProvider"])
    right = np.full((_DEPTH, _WIDTH), _LARGEST_INT8, dtype=np.int8)
    products = (
        session.run(None, {"a": np.full((rows, _DEPTH), _LARGEST_UINT8, dtype=np.uint8), "b": right})[0]
        for rows in _ROWS
    )
    return any(bool((product != _DEPTH * _LARGEST_UINT8 * _LARGEST_INT8).any()) for product in products)


def products_saturate() -> bool:
    """Whether sums of 8-bit products overflow 16 bits on this CPU: what was tried, or the table where nothing was."""
    measured = measured_saturation()
    return saturates_int8(cpu_features()) if measured is None else measured


def product_graph() -> bytes:
    """An ONNX model of one MatMulInteger, uint8 [m, k] by int8 [k, n]; written here because serving has no onnx."""
    node = b"".join((_field(1, b"a"), _field(1, b"b"), _field(2, b"c"), _field(4, b"MatMulInteger")))
    graph = b"".join(
        (
            _field(1, node),
            _field(2, b"product"),
            _field(11, _matrix(b"a", _UINT8, b"mk")),
            _field(11, _matrix(b"b", _INT8, b"kn")),
            _field(12, _matrix(b"c", _INT32, b"mn")),
        )
    )
    return _field(1, 7) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 10))


def _matrix(name: bytes, element_type: int, axes: bytes) -> bytes:
    """A named matrix of ONNX (ValueInfoProto) with two free axes of one letter each."""
    shape = b"".join(_field(1, _field(2, axis)) for axis in _letters(axes))
    return _field(1, name) + _field(2, _field(1, _field(1, element_type) + _field(2, shape)))


def _letters(word: bytes) -> Iterator[bytes]:
    return (word[place : place + 1] for place in range(len(word)))


def _field(number: int, value: bytes | int) -> bytes:
    """One field of a protobuf message; numbers and lengths below 128 take one byte."""
    if isinstance(value, int):
        return bytes((number << 3, value))
    return bytes((number << 3 | 2, len(value))) + value
