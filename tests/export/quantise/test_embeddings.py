"""int8 embeddings with one scale per row."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.quantise.dynamic import dynamic_product
from export.quantise.integers import SIGNED_8
from export.quantise.layers import find_layers
from export.quantise.rewrite import rewrite


def lookup(table: NDArray[np.float32], times: int = 1) -> onnx.ModelProto:
    """Ids [n] -> rows of a table, looked up so many times."""
    names = [f"rows{number}" for number in range(times)]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], [name], name=f"lookup_{name}") for name in names],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b"]) for name in names],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    return rewrite(model, find_layers(model), dynamic_product(SIGNED_8))


def rows_of(model: onnx.ModelProto, ids: list[int]) -> list[NDArray[np.float32]]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, {"ids": np.array(ids, dtype=np.int64)})
    return found


@pytest.fixture
def table() -> NDArray[np.float32]:
    """Rows whose sizes differ by a factor of a thousand, and one of zeros."""
    rows = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    rows *= np.geomspace(0.001, 1.0, num=50, dtype=np.float32)[:, None]
    rows[7] = 0.0
    return rows


def test_every_row_keeps_its_own_precision(table: NDArray[np.float32]) -> None:
    """Catches one scale for all rows, by which small rows round to nothing."""
    ids = [0, 7, 49, 3, 3]
    (found,) = rows_of(quantised(lookup(table)), ids)
    half_a_step = np.abs(table[ids]).max(axis=1, keepdims=True) / 254
    assert np.all(np.abs(found - table[ids]) <= half_a_step + 1e-9)
    assert np.any(found[0] != 0)
    assert np.all(found[1] == 0)


def test_the_float_table_is_gone(table: NDArray[np.float32]) -> None:
    """Catches a graph that carries both tables and is larger than before."""
    kinds = {tensor.name: tensor.data_type for tensor in quantised(lookup(table)).graph.initializer}
    assert kinds == {"table_int8": TensorProto.INT8, "table_row_scale": TensorProto.FLOAT}


def test_a_table_that_is_looked_up_twice_is_one_layer(table: NDArray[np.float32]) -> None:
    """Catches a second reader that still wants the float table."""
    model = lookup(table, times=2)
    (layer,) = find_layers(model)
    assert len(layer.nodes) == 2
    first, second = rows_of(quantised(model), [4, 9])
    np.testing.assert_array_equal(first, second)
