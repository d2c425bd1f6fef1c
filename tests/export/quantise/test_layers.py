"""Layers are found, named and told apart in the graphs of every architecture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph import export_graph
from export.quantise.layers import choose_layers, find_layers, load_plain
from serving.errors import UserError
from tests.export.conftest import CONFIGS, INPUTS, INTENT, make_model

PER_BLOCK = (
    "attention query",
    "attention key",
    "attention value",
    "attention output",
    "feed-forward in",
    "feed-forward out",
)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_architecture_has_its_roles_in_every_block(architecture: str, tmp_path: Path) -> None:
    """Catches an encoder whose projections are all called `other`: nobody could tell what was left in fp32."""
    export_graph(make_model(architecture), INPUTS.names, [INTENT], tmp_path / "plain.onnx")
    layers = find_layers(load_plain(tmp_path / "plain.onnx"))
    found = Counter((layer.role, layer.block) for layer in layers)
    for role in PER_BLOCK:
        for block in (0, 1):
            assert found[role, block] >= 1, (role, block)
    assert found["word embedding", None] == 1
    assert sum(layer.role == "head" for layer in layers) >= 1
    assert len({layer.name for layer in layers}) == len(layers)
    assert all(layer.obstacle is None for layer in layers)


def test_a_berts_layers_are_all_there_once_with_their_shapes(plain: Path) -> None:
    """Catches a layer that is listed twice, or a turned Gemm whose inputs and outputs are swapped."""
    layers = {layer.name: layer for layer in find_layers(onnx.load(plain))}
    roles = Counter(layer.role for layer in layers.values())
    assert roles == {
        **dict.fromkeys(PER_BLOCK, 2),
        "word embedding": 1,
        "position embedding": 1,
        "type embedding": 1,
        "pooler": 1,
        "head": 1,
    }
    head = next(layer for layer in layers.values() if layer.role == "head")
    assert (head.kind, head.shape) == ("Gemm", (32, 3))
    feed_forward = next(layer for layer in layers.values() if layer.role == "feed-forward in")
    assert (feed_forward.kind, feed_forward.shape, feed_forward.num_weights) == ("MatMul", (32, 48), 1536)


def _tied(*, axis: int = 0, reader: str = "Gather") -> onnx.ModelProto:
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"], name="lookup", axis=axis)]
    if reader == "MatMul":
        nodes.append(helper.make_node("MatMul", ["rows", "table"], ["scores"], name="tied"))
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["a", "b"])],
        [numpy_helper.from_array(np.ones((4, 4), dtype=np.float32), "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("model", [_tied(axis=1), _tied(reader="MatMul")], ids=["by column", "tied"])
def test_a_table_that_is_read_in_other_ways_has_an_obstacle(model: onnx.ModelProto) -> None:
    """Catches a tied matrix that is taken away from its other reader."""
    table = next(layer for layer in find_layers(model) if layer.kind == "Gather")
    assert table.obstacle is not None
    assert "read" in table.obstacle


def test_a_gemm_that_scales_has_an_obstacle(plain: Path) -> None:
    """Catches alpha, beta or a turned input that the quantised form would silently drop."""
    for attribute in (helper.make_attribute("alpha", 0.5), helper.make_attribute("transA", 1)):
        model = onnx.load(plain)
        gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
        kept = [found for found in gemm.attribute if found.name != attribute.name]
        del gemm.attribute[:]
        gemm.attribute.extend([*kept, attribute])
        layer = next(layer for layer in find_layers(model) if gemm.name in layer.nodes)
        assert layer.obstacle is not None


def test_weights_that_are_used_twice_are_one_layer_with_both_uses(tmp_path: Path) -> None:
    """Catches a second use that stays fp32 behind an Identity: DeBERTa projects words and positions by one matrix."""
    export_graph(make_model("deberta-v2"), INPUTS.names, [INTENT], tmp_path / "plain.onnx")
    raw, plain = onnx.load(tmp_path / "plain.onnx"), load_plain(tmp_path / "plain.onnx")
    queries = [layer for layer in find_layers(plain) if layer.role == "attention query"]
    assert [len(layer.nodes) for layer in queries] == [2, 2]
    weights = {tensor.name for tensor in raw.graph.initializer}
    assert any(node.op_type == "Identity" and node.input[0] in weights for node in raw.graph.node)
    assert not any(node.op_type == "Identity" and node.input[0] in weights for node in plain.graph.node)


def test_layers_are_chosen_by_name_role_or_pattern(plain: Path) -> None:
    """Catches an exclusion that fits nothing and is taken as if it did."""
    layers = find_layers(onnx.load(plain))
    assert [layer.role for layer in choose_layers(layers, ["pooler"])] == ["pooler"]
    assert {layer.block for layer in choose_layers(layers, ["*layer.1/*"])} == {1}
    assert len(choose_layers(layers, ["*layer.1/*", "attention query"])) == 7
    assert choose_layers(layers, [layers[3].name]) == [layers[3]]
    with pytest.raises(UserError, match=r"no layer is called 'atention query'.*attention query"):
        choose_layers(layers, ["pooler", "atention query"])
