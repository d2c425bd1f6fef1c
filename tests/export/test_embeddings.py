"""int8 embeddings with one scale per row."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.embeddings import quantise_embeddings


def lookup(table: NDArray[np.float32], *, readers: tuple[str, ...] = ("Gather",), axis: int = 0) -> onnx.ModelProto:
    """Ids [n] -> rows of a table, read by the given operators."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"], name="lookup", axis=axis)]
    outputs = [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["a", "b"])]
    if "MatMul" in readers:
        nodes.append(helper.make_node("MatMul", ["rows", "table_t"], ["scores"], name="tied"))
        nodes.insert(0, helper.make_node("Transpose", ["table"], ["table_t"], name="turn"))
        outputs.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["a", "c"]))
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        outputs,
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rows_of(model: onnx.ModelProto, ids: list[int]) -> NDArray[np.float32]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(["rows"], {"ids": np.array(ids, dtype=np.int64)})[0]
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
    model = lookup(table)
    assert quantise_embeddings(model) == 1
    ids = [0, 7, 49, 3, 3]
    found = rows_of(model, ids)
    half_a_step = np.abs(table[ids]).max(axis=1, keepdims=True) / 254
    assert np.all(np.abs(found - table[ids]) <= half_a_step + 1e-9)
    assert np.any(found[0] != 0)
    assert np.all(found[1] == 0)


def test_the_float_table_is_gone(table: NDArray[np.float32]) -> None:
    """Catches a graph that carries both tables and is larger than before."""
    model = lookup(table)
    quantise_embeddings(model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds == {"table_int8": TensorProto.INT8, "table_row_scale": TensorProto.FLOAT}


def test_tables_with_another_reader_or_an_excluded_one_stay(table: NDArray[np.float32]) -> None:
    """Catches a tied matrix that is taken away from its other reader, and an exclusion that is ignored."""
    for model, exclude in (
        (lookup(table, readers=("Gather", "MatMul")), ()),
        (lookup(table), ("lookup",)),
        (lookup(table, axis=1), ()),
    ):
        assert quantise_embeddings(model, exclude) == 0
        assert [tensor.name for tensor in model.graph.initializer] == ["table"]
    np.testing.assert_array_equal(rows_of(lookup(table), [5]), table[[5]])
