"""The rules of each operator, on graphs of a few nodes: what may be cut is cut, and everything else is left whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.agreement import random_inputs
from export.nodes import drop_unread
from export.simplify.first_token import keep_first_token
from export.simplify.observed import SIZES, observe
from export.simplify.shapes import fix_shapes
from serving.session import create_session

WIDTH = 4
CONSTANTS: dict[str, NDArray[Any]] = {
    "lift": np.array([2], dtype=np.int64),
    "widen": np.linspace(0.2, 1.0, WIDTH, dtype=np.float32).reshape(1, WIDTH),
    "weight": np.linspace(-1.0, 1.0, WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH),
    "scale": np.linspace(0.5, 1.5, WIDTH, dtype=np.float32),
    "first": np.array(0, dtype=np.int64),
    "last": np.array(-1, dtype=np.int64),
    "split": np.array([0, 0, 2, 2], dtype=np.int64),
    "joined": np.array([0, 0, -1], dtype=np.int64),
    "mixed": np.array([0, -1, 2], dtype=np.int64),
    "unmixed": np.array([0, -1, 4], dtype=np.int64),
    "row": np.array(1, dtype=np.int64),
    "pick": np.array([0, 1]),
    "swap": np.array([1, 0]),
    "halves": np.array([2, 2]),
}
HIDDEN = [
    helper.make_node("Cast", ["input_ids"], ["numbers"], to=TensorProto.FLOAT),
    helper.make_node("Unsqueeze", ["numbers", "lift"], ["lifted"]),
    helper.make_node("MatMul", ["lifted", "widen"], ["hidden"]),
]


def _read_first(source: str, index: str = "first", axis: int = 1) -> onnx.NodeProto:
    return helper.make_node("Gather", [source, index], ["answer"], axis=axis)


def _graph(nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [*HIDDEN, *nodes],
        "toy",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [onnx.ValueInfoProto(name="answer")],
        [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _answers(model: onnx.ModelProto, folder: Path) -> list[NDArray[Any]]:
    onnx.save_model(model, str(folder / "toy.onnx"))
    session = create_session(folder / "toy.onnx")
    return [session.run(["answer"], random_inputs(["input_ids"], *size))[0] for size in SIZES]


def _node(operator: str, *inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], **attributes)


def _slices(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Slice"]


CUT = {
    "product": ([_node("MatMul", "hidden", "weight", output="x")], {"hidden", "x"}),
    "activation": (
        [_node("Tanh", "hidden", output="y"), _node("Mul", "y", "scale", output="x")],
        {"hidden", "y", "x"},
    ),
    "norm": ([_node("LayerNormalization", "hidden", "scale", "scale", output="x", axis=-1)], {"hidden", "x"}),
    "a norm that is written out": (
        [
            _node("ReduceMean", "hidden", output="mean", axes=[-1], keepdims=1),
            _node("Sub", "hidden", "mean", output="y"),
            _node("Mul", "y", "y", output="squares"),
            _node("ReduceMean", "squares", output="variance", axes=[2], keepdims=1),
            _node("Sqrt", "variance", output="deviation"),
            _node("Div", "y", "deviation", output="x"),
        ],
        {"hidden", "mean", "y", "squares", "variance", "deviation", "x"},
    ),
    "softmax over the width": ([_node("Softmax", "hidden", output="x", axis=-1)], {"hidden", "x"}),
    "there and back": (
        [
            _node("Transpose", "hidden", output="y", perm=[0, 2, 1]),
            _node("Erf", "y", output="z"),
            _node("Transpose", "z", output="x", perm=[0, 2, 1]),
        ],
        {"hidden", "y", "z", "x"},
    ),
    "heads": (
        [
            _node("Reshape", "hidden", "split", output="y"),
            _node("Relu", "y", output="z"),
            _node("Reshape", "z", "joined", output="x"),
        ],
        {"hidden", "y", "z", "x"},
    ),
    "attention": (
        [
            _node("Transpose", "hidden", output="keys", perm=[0, 2, 1]),
            _node("MatMul", "hidden", "keys", output="scores"),
            _node("Softmax", "scores", output="shares", axis=-1),
            _node("MatMul", "shares", "hidden", output="context"),
            _node("Add", "context", "hidden", output="x"),
        ],
        {"scores", "shares", "context", "x"},
    ),
    "tokens in the columns of a product": (
        [
            _node("Transpose", "hidden", output="turned", perm=[0, 2, 1]),
            _node("MatMul", "weight", "turned", output="y"),
            _node("Transpose", "y", output="x", perm=[0, 2, 1]),
        ],
        {"x"},
    ),
    "a row that all tokens share": (
        [
            _node("ReduceMean", "hidden", output="mean", axes=[1], keepdims=1),
            _node("Add", "hidden", "mean", output="x"),
        ],
        {"x"},
    ),
    "numbers of fewer axes": ([_node("Add", "scale", "hidden", output="x")], {"hidden", "x"}),
}
"""Nodes, and which of their tensors have one token afterwards."""
WHOLE = {
    "softmax over the tokens": [_node("Softmax", "hidden", output="x", axis=1)],
    "tokens among the width": [
        _node("Reshape", "hidden", "mixed", output="y"),
        _node("Relu", "y", output="z"),
        _node("Reshape", "z", "unmixed", output="x"),
    ],
    "a mean whose axis is gone": [
        _node("Reshape", "hidden", "split", output="y"),
        _node("ReduceMean", "y", output="x", axes=[3], keepdims=0),
    ],
    "an operator that is not known to keep rows apart": [_node("CumSum", "hidden", "row", output="x")],
}
"""In each, what is read is made of all tokens."""


@pytest.mark.parametrize("name", CUT)
def test_what_keeps_tokens_apart_is_computed_for_the_first(name: str, tmp_path: Path) -> None:
    """Each rule by itself: the answer stays, and every tensor on the way has one token."""
    nodes, expected = CUT[name]
    model = _graph([*nodes, _read_first("x")])
    before, seen = _answers(model, tmp_path), observe(model, tmp_path)

    assert keep_first_token(model, seen) == len(expected)

    for ours, theirs in zip(_answers(model, tmp_path), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    after = observe(model, tmp_path)
    assert {name for name, shapes in seen.shapes.items() if after.shapes[name] != shapes} == expected
    assert all(after.shapes[node.input[0]] != after.shapes[node.output[0]] for node in _slices(model))
    assert keep_first_token(model, after) == 0


@pytest.mark.parametrize("name", WHOLE)
def test_what_mixes_tokens_is_computed_for_all(name: str, tmp_path: Path) -> None:
    """A softmax over one token is one, whatever the others said."""
    model = _graph([*WHOLE[name], _read_first("x")])
    before, seen = _answers(model, tmp_path), observe(model, tmp_path)

    assert keep_first_token(model, seen) == 0

    for ours, theirs in zip(_answers(model, tmp_path), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_tensor_that_the_graph_gives_out_is_left_whole(tmp_path: Path) -> None:
    """Callers read it, though no node does."""
    model = _graph([_node("Tanh", "hidden", output="x"), _read_first("x")])
    model.graph.output.append(onnx.ValueInfoProto(name="x"))

    assert keep_first_token(model, observe(model, tmp_path)) == 0


@pytest.mark.parametrize(("index", "axis"), [("last", 1), ("first", 2)])
def test_what_reads_something_else_cuts_nothing(index: str, axis: int, tmp_path: Path) -> None:
    """The last token is another one, and the first number of the width one of all tokens."""
    model = _graph([_node("MatMul", "hidden", "weight", output="x"), _read_first("x", index, axis)])

    assert keep_first_token(model, observe(model, tmp_path)) == 0


def test_what_another_reader_needs_is_left_whole(tmp_path: Path) -> None:
    """The cut lies behind the last tensor that somebody else reads."""
    model = _graph(
        [
            _node("MatMul", "hidden", "weight", output="shared"),
            _node("Tanh", "shared", output="x"),
            _node("Gather", "x", "first", output="one", axis=1),
            _node("ReduceMean", "shared", output="all", axes=[1], keepdims=0),
            _node("Add", "one", "all", output="answer"),
        ]
    )
    before = _answers(model, tmp_path)

    assert keep_first_token(model, observe(model, tmp_path)) == 1

    for ours, theirs in zip(_answers(model, tmp_path), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _reshaped(shape_of: Sequence[onnx.NodeProto], **attributes: Any) -> onnx.ModelProto:
    """Hidden states in a shape that is computed."""
    return _graph([*shape_of, _node("Reshape", "hidden", "wanted", output="answer", **attributes)])


OWN_SIZES = [
    _node("Shape", "hidden", output="sizes"),
    _node("Gather", "sizes", "pick", output="some", axis=0),
    _node("Concat", "some", "halves", output="wanted", axis=0),
]


def test_a_computed_shape_becomes_a_constant(tmp_path: Path) -> None:
    """Seven nodes for each reshape, some forty reshapes: a good part of a short text's time."""
    model = _reshaped(OWN_SIZES)
    before = _answers(model, tmp_path)

    assert fix_shapes(model, observe(model, tmp_path)) == 1
    drop_unread(model.graph)

    assert [node.op_type for node in model.graph.node] == ["Cast", "Unsqueeze", "MatMul", "Reshape"]
    assert observe(model, tmp_path).constants["answer_shape"].tolist() == [0, 0, 2, 2]
    for ours, theirs in zip(_answers(model, tmp_path), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_size_that_is_no_axis_of_its_own_is_what_is_left(tmp_path: Path) -> None:
    """Batch times tokens is neither."""
    flat = [
        _node("Shape", "numbers", output="sizes"),
        _node("ReduceProd", "sizes", output="all", axes=[0], keepdims=1),
        _node("Concat", "all", "halves", output="wanted", axis=0),
    ]
    model = _reshaped(flat)
    before = _answers(model, tmp_path)

    assert fix_shapes(model, observe(model, tmp_path)) == 1

    assert observe(model, tmp_path).constants["answer_shape"].tolist() == [-1, 2, 2]
    for ours, theirs in zip(_answers(model, tmp_path), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_shape_with_two_unknown_axes_is_left_alone(tmp_path: Path) -> None:
    """Only one can be what is left."""
    swapped = [
        _node("Shape", "hidden", output="sizes"),
        _node("Gather", "sizes", "swap", output="some", axis=0),
        _node("Concat", "some", "halves", output="wanted", axis=0),
    ]

    model = _reshaped(swapped)

    assert fix_shapes(model, observe(model, tmp_path)) == 0


def test_a_reshape_for_which_zero_means_none_is_left_alone(tmp_path: Path) -> None:
    """With allowzero the constant would ask for an empty tensor."""
    model = _reshaped(OWN_SIZES, allowzero=1)

    assert fix_shapes(model, observe(model, tmp_path)) == 0
