"""A tiny BERT's plain graph with texts to quantise it on, and graphs of one product that can be done by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.graph import export_graph
from export.quantise.layers import find_layers
from export.quantise.material import Material, QuantiseSettings, Quantising
from export.quantise.quantiser import Quantiser
from export.sample import Sample
from export.simplify import simplify
from serving.tokenise import TextEncoder
from tests.export.conftest import INPUTS, INTENT, make_model

Floats = NDArray[np.float32]


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain graph of the tiny BERT, simplified as every candidate's."""
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    export_graph(make_model("bert"), INPUTS.names, [INTENT], path)
    assert simplify(path, INPUTS.max_length) is None
    return path


@pytest.fixture(scope="session")
def quantiser_of(plain: Path, encoder: TextEncoder, sample: Sample) -> Callable[..., Quantiser]:
    """A factory of quantisers of the tiny BERT: settings by keyword, `texts=False` for none."""

    def make(*, texts: bool = True, num_texts: int = 20, path: Path = plain, **settings: object) -> Quantiser:
        material = Material({"intent": sample.first(num_texts)}, {"intent": sample}) if texts else Material()
        chosen = QuantiseSettings(**settings)  # type: ignore[arg-type]
        return Quantiser(path, encoder, [INTENT], Quantising(chosen, material))

    return make


def product_graph(weight: Floats, *, name: str = "head") -> onnx.ModelProto:
    """X [batch, inputs] -> x @ weight [batch, outputs]."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name=f"/{name}/MatMul")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def hostile(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same answers in fp32, but one attention output is given a channel that is a thousand times the others.

    A value's column is multiplied and the row of the attention output that reads it divided: attention is linear
    in the values, whose bias is zero, so only the scale between the two changes.
    """
    model = onnx.load(plain)
    names = {layer.role: layer.weight for layer in find_layers(model) if layer.block == 0}
    scale_part(model, names["attention value"], (slice(None), 0), 1000.0)
    scale_part(model, names["attention output"], (0, slice(None)), 1 / 1000)
    path = tmp_path_factory.mktemp("hostile") / "plain.onnx"
    onnx.save_model(model, str(path))
    return path


def scale_part(model: onnx.ModelProto, name: str, place: tuple[int | slice, ...], factor: float) -> None:
    """Multiply a part of a tensor."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array[place] *= factor
    tensor.CopyFrom(numpy_helper.from_array(array, name))
