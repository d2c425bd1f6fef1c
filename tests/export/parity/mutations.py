"""Defects of an exporter, as changes of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx
from onnx import TensorProto, helper, numpy_helper

Mutation = Callable[[onnx.ModelProto], None]
BIAS = "model.models.intent.classifier.bias"
WORDS = "model.models.intent.bert.embeddings.word_embeddings.weight"


def shift_one_weight(name: str, by: float, place: int = 0) -> Mutation:
    """Change a single number of a tensor."""

    def mutation(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[place] += by
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return mutation


def swap_inputs(first: str, second: str) -> Mutation:
    """Every reader of one input reads the other."""
    swapped = {first: second, second: first}

    def mutation(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                node.input[place] = swapped.get(name, name)

    return mutation


def rename_outputs(names: Mapping[str, str]) -> Mutation:
    """Outputs under other names."""

    def mutation(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for place, name in enumerate(node.output):
                node.output[place] = names.get(name, name)

    return mutation


def reorder_logits(model: onnx.ModelProto) -> None:
    """The first two columns of the logits change places."""
    rename_outputs({"logits": "ordered"})(model)
    model.graph.initializer.append(helper.make_tensor("order", TensorProto.INT64, [3], [1, 0, 2]))
    model.graph.node.append(helper.make_node("Gather", ["ordered", "order"], ["logits"], axis=1))


def ignore_mask(model: onnx.ModelProto) -> None:
    """Every reader of the attention mask reads ones."""
    swap_inputs("attention_mask", "all_ones")(model)
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["mask_shape"], ["all_ones"], value=one))
    model.graph.node.insert(0, helper.make_node("Shape", ["attention_mask"], ["mask_shape"]))


def freeze(axis: int, size: int) -> Mutation:
    """All inputs take one size only along an axis."""

    def mutation(model: onnx.ModelProto) -> None:
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[axis].dim_value = size

    return mutation


def repeat_the_first_row(model: onnx.ModelProto) -> None:
    """A batch axis frozen inside: every text gets the answer of the first one, in the right shape."""
    rename_outputs({"logits": "each"})(model)
    for name, value in (("zero", [0]), ("one", [1])):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], value))
    model.graph.node.append(helper.make_node("Slice", ["each", "zero", "one", "zero"], ["first"]))
    model.graph.node.append(helper.make_node("Shape", ["each"], ["shape"]))
    model.graph.node.append(helper.make_node("Expand", ["first", "shape"], ["logits"]))


def divide_by_zero(model: onnx.ModelProto) -> None:
    """Logits that are no numbers."""
    rename_outputs({"logits": "finite"})(model)
    model.graph.node.append(helper.make_node("Sub", ["finite", "finite"], ["nothing"]))
    model.graph.node.append(helper.make_node("Div", ["nothing", "nothing"], ["logits"]))
