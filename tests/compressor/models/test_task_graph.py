"""The graph of many tasks holds the encoder once, whatever the architecture and precision, and every head beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from transformers import PreTrainedTokenizerFast

from compressor.models.initialise import pretrained_model
from compressor.models.inputs import describe_inputs
from compressor.models.task_model import TaskModel
from export.candidate import Student, export_candidate
from export.runners import session_runner, torch_runner
from serving.manifest import TaskSpec
from serving.session import create_session

ARCHITECTURES = ["bert", "distilbert", "roberta", "electra", "mpnet", "deberta-v2"]
LAYERS = 2
TASKS = [
    TaskSpec(name="topic", type="classification", labels=("billing", "delivery", "account"), metric="accuracy"),
    TaskSpec(name="mood", type="classification", labels=("bad", "fair", "good"), metric="accuracy"),
    TaskSpec(name="flags", type="multilabel", labels=("angry", "polite"), metric="micro_f1"),
    TaskSpec(name="urgency", type="regression", metric="pearson"),
]
PRODUCTS = ("MatMul", "Gemm", "MatMulInteger")
OF_THE_ENCODER = ("Attention", "LayerNormalization", "Softmax")
LARGE = 64


@dataclass(frozen=True)
class Exported:
    """A student of some tasks and its two graphs."""

    model: TaskModel
    fp32: Path
    int8: Path


@pytest.fixture(scope="module", params=ARCHITECTURES)
def graphs(
    request: pytest.FixtureRequest, checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Exported]:
    """Students of one, two and four tasks on one encoder."""
    base = checkpoint(request.param)
    made = {}
    for number in (1, 2, 4):
        folder = tmp_path_factory.mktemp("graph")
        model = pretrained_model(str(base), TASKS[:number], layers=LAYERS, seed=0).eval()
        fill_biases(model.heads)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
        inputs = describe_inputs(model, tokenizer, max_length=32, text_columns=("text",))
        export_candidate(Student(model, model.config, base, model.tasks, inputs), folder)
        made[number] = Exported(model, folder / "model.fp32.onnx", folder / "model.int8.onnx")
    return made


def fill_biases(heads: nn.Module) -> None:
    """Fresh biases are all zero, and the exporter stores equal tensors once: weights could not be told apart."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in heads.parameters():
            if parameter.ndim == 1:
                parameter.normal_(generator=generator)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def weight_products(path: Path) -> int:
    """Products with a constant matrix: linear layers."""
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    return sum(node.op_type in PRODUCTS and node.input[1] in constants for node in graph.node)


def num_linear(head: nn.Module) -> int:
    return sum(isinstance(module, nn.Linear) for module in head.modules())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_encoder_is_in_the_graph_once(graphs: dict[int, Exported], precision: str) -> None:
    """Catches an encoder that is computed once per task: eight tasks would cost eight times the time and bytes."""
    alone, together = (getattr(graphs[number], precision) for number in (1, 4))
    one, four = operators(alone), operators(together)
    assert {name: one[name] for name in OF_THE_ENCODER} == {name: four[name] for name in OF_THE_ENCODER}
    assert one["Attention"] + one["Softmax"] == LAYERS
    heads = [graphs[4].model.head(task.name) for task in TASKS]
    assert weight_products(together) - weight_products(alone) == sum(map(num_linear, heads[1:]))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_no_weight_is_in_the_graph_twice(graphs: dict[int, Exported], precision: str) -> None:
    """Catches tables and matrices that are stored per task, which no operator count shows."""
    tensors = [
        numpy_helper.to_array(tensor).tobytes()
        for tensor in onnx.load(getattr(graphs[4], precision)).graph.initializer
        if np.prod(tensor.dims) >= LARGE and numpy_helper.to_array(tensor).any()
    ]
    assert len(set(tensors)) == len(tensors)


def test_a_task_adds_its_own_head_and_nothing_else(graphs: dict[int, Exported]) -> None:
    """Catches a head that is missing, or comes with more weights than it has."""
    sizes = {number: weight_bytes(exported.fp32) for number, exported in graphs.items()}
    for more, fewer in ((2, 1), (4, 2)):
        heads = [graphs[more].model.head(task.name) for task in TASKS[fewer:more]]
        own = sum(4 * parameter.numel() for head in heads for parameter in head.parameters())
        assert abs(sizes[more] - sizes[fewer] - own) <= 64 * len(heads)  # a few scalars and shapes


def weight_bytes(path: Path) -> int:
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer)


def test_every_head_answers_as_in_torch(graphs: dict[int, Exported]) -> None:
    """Catches outputs under each other's names: both have the right shape."""
    exported = graphs[4]
    ids = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 9, 10, 3, 0, 0]])
    inputs = {"input_ids": ids.numpy(), "attention_mask": (ids > 0).long().numpy()}
    session = create_session(exported.fp32)
    if "token_type_ids" in {node.name for node in session.get_inputs()}:
        inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
    tasks = [TaskSpec(name=t.name, type=t.type, labels=t.labels, output=f"logits_{t.name}") for t in TASKS]
    given, expected = session_runner(session, tasks)(inputs), torch_runner(exported.model)(inputs)
    for task in TASKS:
        np.testing.assert_allclose(given[task.name], expected[task.name], atol=1e-5)
    assert np.abs(given["topic"] - given["mood"]).max() > 1e-3
