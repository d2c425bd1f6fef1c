"""Classes of int8 kernels from instruction sets, and the product that shows whether they saturate."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from serving import kernels
from serving.host import cpu_features, saturates_int8
from serving.kernels import INT8_KERNELS, SATURATING_KERNELS, int8_kernels, measured_saturation, product_graph

AVX512 = ("sse4_1", "avx2", "fma", "avx512f", "avx512bw", "avx512vl")
MACHINES = [
    (("sse4_1",), "sse4.1"),
    (("sse4_1", "avx2", "fma"), "avx2 without vnni"),
    (("sse4_1", "avx2", "fma", "avx_vnni"), "avx vnni"),
    (("sse4_1", "avx2", "fma", "avx512f"), "avx2 without vnni"),
    (AVX512, "avx512 without vnni"),
    ((*AVX512, "avx512_vnni"), "avx512 vnni"),
    ((*AVX512, "avx512_vnni", "amx_tile", "amx_bf16"), "avx512 vnni"),
    ((*AVX512, "avx512_vnni", "amx_tile", "amx_int8"), "amx"),
    (("asimd",), "arm neon"),
    (("asimd", "asimddp"), "arm dotprod"),
    (("asimd", "asimddp", "i8mm", "sve"), "arm i8mm"),
    ((), "unknown"),
    (("abacus",), "unknown"),
]


@pytest.mark.parametrize(("features", "expected"), MACHINES)
def test_each_machine_has_the_kernels_of_its_best_instruction_set(features: tuple[str, ...], expected: str) -> None:
    """A bundle certified with AMX and served by AVX2 kernels rounds and saturates otherwise."""
    assert int8_kernels(features) == expected
    assert int8_kernels(tuple(reversed(features))) == expected


@pytest.mark.parametrize("features", [features for features, _ in MACHINES])
def test_both_tables_agree_on_which_machines_saturate(features: tuple[str, ...]) -> None:
    """One of them chooses 7-bit weights, the other one certifies: they must mean the same machines."""
    assert saturates_int8(features) == (int8_kernels(features) in SATURATING_KERNELS)


def test_saturating_kernels_are_kernels() -> None:
    """A name that no machine has would never match."""
    assert {name for name, _ in INT8_KERNELS} > SATURATING_KERNELS


def test_the_product_is_a_valid_graph_of_one_integer_product() -> None:
    """It is written byte by byte; a graph that another runtime refuses would stop every load of a bundle."""
    model = onnx.load_from_string(product_graph())
    onnx.checker.check_model(model, full_check=True)
    (node,) = model.graph.node
    assert (node.op_type, list(node.input), list(node.output)) == ("MatMulInteger", ["a", "b"], ["c"])
    types = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert types == [TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32]
    assert model.opset_import[0].version == 10


def test_this_machine_saturates_as_its_instruction_sets_say() -> None:
    """If this fails on a new CPU, the table is wrong about it and int8 bundles made there may be, too."""
    assert measured_saturation() == saturates_int8(cpu_features())


class _Session:
    """A CPU that adds pairs of products in 16 bits, for batches of some rows only."""

    def __init__(self, saturating_rows: tuple[int, ...]) -> None:
        self.saturating_rows = saturating_rows

    def run(self, _: None, inputs: dict[str, Any]) -> list[Any]:
        a, b = (inputs[name].astype(np.int64) for name in ("a", "b"))
        if a.shape[0] not in self.saturating_rows:
            return [a @ b]
        pairs = a[:, 0::2, None] * b[None, 0::2] + a[:, 1::2, None] * b[None, 1::2]
        return [np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)]


@pytest.mark.parametrize(("rows", "expected"), [((), False), ((1,), True), ((8,), True), ((1, 8), True)])
def test_saturation_is_seen_whichever_kernel_has_it(
    rows: tuple[int, ...], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One text runs through other kernels than a batch; a probe of one of them says nothing of the other."""
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: _Session(rows))
    assert kernels.measured_saturation.__wrapped__() is expected


@pytest.mark.parametrize("measured", [True, False, None])
def test_what_was_tried_counts_more_than_the_table(measured: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches weights of 8 bits on a CPU whose products were seen to saturate, because a table did not know it."""
    for by_table in (True, False):
        monkeypatch.setattr(kernels, "measured_saturation", lambda: measured)
        monkeypatch.setattr(kernels, "saturates_int8", lambda _features, found=by_table: found)
        assert kernels.products_saturate() is (by_table if measured is None else measured)
