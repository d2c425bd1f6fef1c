"""Which provider computes what, and that a GPU session which works on the CPU is found out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.binding import BoundSession
from serving.errors import UserError
from serving.placement import check_placement, fallback_of, nodes_per_provider, placement_of
from serving.session import create_session

GPU, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@dataclass
class FakeNode:
    """A node as ONNX Runtime describes it."""

    op_type: str


@dataclass
class FakeSubgraph:
    """Nodes of one provider."""

    ep_name: str
    operators: tuple[str, ...]

    def get_nodes(self) -> list[FakeNode]:
        """As ONNX Runtime's."""
        return [FakeNode(operator) for operator in self.operators]


class FakeSession:
    """A session of two providers."""

    def __init__(self, *subgraphs: FakeSubgraph) -> None:
        self.subgraphs = subgraphs

    def get_provider_graph_assignment_info(self) -> Any:
        """As ONNX Runtime's."""
        return self.subgraphs


def test_nodes_are_counted_per_provider_and_operator() -> None:
    """Subgraphs of one provider that overwrite one another would hide all but the last."""
    session = FakeSession(
        FakeSubgraph(GPU, ("MatMul", "MatMul", "Softmax")),
        FakeSubgraph(CPU, ("Shape",)),
        FakeSubgraph(GPU, ("MatMul",)),
    )

    placement = placement_of(session)

    assert placement == {GPU: {"MatMul": 3, "Softmax": 1}, CPU: {"Shape": 1}}
    assert nodes_per_provider(placement) == {GPU: 4, CPU: 1}


def test_a_fallback_is_an_error_that_names_the_operators() -> None:
    """Dynamic int8 has no kernels on a GPU: timed there it would be the CPU's time under the GPU's name."""
    placement = {GPU: {"MatMul": 3}, CPU: {"MatMulInteger": 12, "DynamicQuantizeLinear": 8, "Shape": 2}}

    with pytest.raises(
        UserError, match=r"model.int8.onnx on cuda .* DynamicQuantizeLinear \(8\), MatMulInteger \(12\)\."
    ):
        check_placement(placement, "cuda", name="model.int8.onnx")


def test_work_on_shapes_belongs_on_the_cpu() -> None:
    """Every transformer computes a few shapes there; an error about them would forbid GPUs."""
    placement = {GPU: {"MatMul": 3}, CPU: {"Shape": 4, "Gather": 2, "Concat": 1}}

    check_placement(placement, "cuda", name="model.fp32.onnx")
    assert fallback_of(placement, "cuda") == {}


def test_on_the_cpu_nothing_is_a_fallback() -> None:
    """The CPU's own products are what was asked for."""
    assert fallback_of({CPU: {"MatMul": 3}}, "cpu") == {}


def test_a_real_session_tells_where_its_nodes_are(tmp_path: Path) -> None:
    """An option that this ONNX Runtime does not know would leave the counts empty, and every fallback unseen."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    session = create_session(tmp_path / "m.onnx")

    assert placement_of(session) == {CPU: {"MatMul": 1, "Tanh": 1}}
    assert placement_of(BoundSession(session, "cpu")) == placement_of(session)
