"""int8 graphs: what was quantised is counted, and nothing quantised is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.candidate import Candidate
from export.graph import export_graph
from export.precision import MIN_WEIGHTS, count_int8_operators, ir_version_of, opset_of, quantise
from serving.errors import UserError
from tests.export.conftest import INPUTS, INTENT, make_model


def _linear(path: Path, weights: tuple[int, int] | None) -> None:
    """A graph of one matrix product with constant weights, or of two inputs without any."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    initializers = []
    if weights is None:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    else:
        values = np.random.default_rng(0).normal(size=weights).astype(np.float32)
        initializers.append(numpy_helper.from_array(values, "w"))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])]
    model = helper.make_model(
        helper.make_graph(nodes, "linear", inputs, outputs, initializers),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save_model(model, str(path))


def test_a_graph_without_constant_weights_is_refused(tmp_path: Path) -> None:
    """An fp32 graph under the name int8 would be served as the small one."""
    _linear(tmp_path / "plain.onnx", None)

    with pytest.raises(UserError, match=r"nothing in plain\.onnx could be quantised"):
        quantise(tmp_path / "plain.onnx", tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_excluding_everything_is_refused(tmp_path: Path) -> None:
    """The same, by way of the exclusion list."""
    _linear(tmp_path / "plain.onnx", (4, 512))

    with pytest.raises(UserError, match="nothing"):
        quantise(tmp_path / "plain.onnx", tmp_path / "int8.onnx", exclude=["product"])


def test_bytes_and_operators_are_those_of_the_file(tmp_path: Path) -> None:
    """A summary computed from intentions instead of the written graph would always look right."""
    _linear(tmp_path / "plain.onnx", (4, 512))

    summary = quantise(tmp_path / "plain.onnx", tmp_path / "int8.onnx")

    assert summary.operators == {"MatMul": 1} == count_int8_operators(tmp_path / "int8.onnx")
    assert summary.num_quantised == 1
    assert summary.expected_bytes == 4 * 512
    assert summary.actual_bytes == (tmp_path / "int8.onnx").stat().st_size
    assert count_int8_operators(tmp_path / "plain.onnx") == {}


def test_a_weight_that_stayed_fp32_is_named(tmp_path: Path) -> None:
    """An excluded layer is a choice that the report must show."""
    plain = tmp_path / "plain.onnx"
    export_graph(make_model("bert"), INPUTS.names, [INTENT], plain)
    weights = {t.name for t in onnx.load(plain).graph.initializer if np.prod(t.dims) >= MIN_WEIGHTS}
    nodes = (n for n in onnx.load(plain).graph.node if n.op_type == "MatMul" and n.input[1] in weights)
    excluded = next(nodes)

    summary = quantise(plain, tmp_path / "int8.onnx", exclude=[excluded.name])

    assert summary.left_fp32 == (excluded.input[1],)


def test_the_weights_have_one_scale_per_channel(candidate: tuple[Path, Candidate]) -> None:
    """One scale per matrix doubles the error of the logits and runs no faster."""
    model = onnx.load(candidate[0] / "model.int8.onnx")
    scales = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer if "_scale" in tensor.name}

    assert any(dims == [32] for dims in scales.values())


def test_the_quantised_graph_carries_no_intermediate_shapes(candidate: tuple[Path, Candidate]) -> None:
    """With them the runtime picks slower fused operators when it loads the graph."""
    assert not onnx.load(candidate[0] / "model.int8.onnx").graph.value_info


def test_versions_are_read_from_the_file(tmp_path: Path) -> None:
    """An opset taken from a constant would be wrong as soon as another one is asked for."""
    _linear(tmp_path / "plain.onnx", (4, 4))
    model = onnx.load(tmp_path / "plain.onnx")
    model.opset_import.insert(0, helper.make_opsetid("com.microsoft", 1))
    onnx.save_model(model, str(tmp_path / "plain.onnx"))

    assert opset_of(tmp_path / "plain.onnx") == 17
    assert ir_version_of(tmp_path / "plain.onnx") == 8
