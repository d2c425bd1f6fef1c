"""What this machine can do at most: matrix products and reading memory, measured.

The products are single large ones through ONNX Runtime, the same kernels that a bundle's graphs use; the fastest of
several counts, since a peak is asked for.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.runners import limit_threads
from serving.host import ROOT
from serving.session import create_session

SIZE = 1024
REPEATS = 10
READ_BYTES = 256 * 2**20
"""Several times what any last-level cache of one socket holds for one core."""

_UNITS = {"K": 2**10, "M": 2**20}


class Peaks(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's measured bests.

    Attributes:
        threads: that worked together.
        fp32: floating point operations per second in a product of float32 matrices (a product and a sum are two).
        int8: operations per second in a product of uint8 by int8 matrices.
        read_bytes: per second, from memory.
        cache_bytes: of the last level; None where the system does not tell.
    """

    threads: int
    fp32: float
    int8: float
    read_bytes: float
    cache_bytes: int | None


def measure_peaks(threads: int, *, size: int = SIZE, read_bytes: int = READ_BYTES) -> Peaks:
    """Measure all of them; takes about a second on one core.

    Args:
        threads: to work with.
        size: rows and columns of the matrices.
        read_bytes: to read at once.
    """
    work = 2.0 * size**3
    return Peaks(
        threads=threads,
        fp32=work / _product_seconds(threads, size, "fp32"),
        int8=work / _product_seconds(threads, size, "int8"),
        read_bytes=read_bytes / _read_seconds(threads, read_bytes),
        cache_bytes=last_cache_bytes(),
    )


def last_cache_bytes(root: Path = ROOT) -> int | None:
    """Size of the first CPU's last-level cache; None where the system does not tell."""
    found = sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    if not found:
        return None
    text = found[-1].read_text(encoding="utf-8").strip()
    return int(text.rstrip("KM")) * _UNITS.get(text[-1], 1)


def _product_seconds(threads: int, size: int, precision: str) -> float:
    """Seconds of the fastest product of two square matrices, the right one a weight of the graph."""
    random = np.random.default_rng(0)
    left: NDArray[Any]
    right: NDArray[Any]
    if precision == "fp32":
        left, right = (random.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    else:
        left = random.integers(0, 128, size=(size, size), dtype=np.uint8)
        right = random.integers(-64, 64, size=(size, size), dtype=np.int8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save(_product_graph(right, precision), path)
        session = create_session(path, threads)
        return _fastest(lambda: session.run(None, {"left": left}))


def _product_graph(right: NDArray[Any], precision: str) -> onnx.ModelProto:
    """A graph of one product by a fixed matrix."""
    operator = "MatMul" if precision == "fp32" else "MatMulInteger"
    given, made = (
        (TensorProto.FLOAT, TensorProto.FLOAT) if precision == "fp32" else (TensorProto.UINT8, TensorProto.INT32)
    )
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", given, right.shape)],
        [helper.make_tensor_value_info("product", made, right.shape)],
        [numpy_helper.from_array(right, "right")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _read_seconds(threads: int, read_bytes: int) -> float:
    values = torch.ones(read_bytes // 4)
    with limit_threads(threads):
        return _fastest(lambda: values.sum())


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
