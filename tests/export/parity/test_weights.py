"""Every weight stands in the graph bit for bit, whatever the architecture, and each lost one is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.candidate import Candidate, Student, export_candidate
from export.parity.weights import lost_weights, used_weights
from serving.tokenise import TextEncoder
from tests.export.conftest import CONFIGS, INPUTS, INTENT, make_config, make_model, make_texts
from tests.export.parity.conftest import FP32_FILE, PLAIN_FILE, TONE
from tests.export.parity.mutations import BIAS, WORDS, shift_one_weight

QUERY = "models.intent.bert.encoder.layer.0.attention.self.query.weight"


@pytest.mark.parametrize("architecture", CONFIGS)
def test_an_honest_graph_holds_all_weights(
    architecture: str, tokenizer_folder: Path, encoder: TextEncoder, tmp_path: Path
) -> None:
    """A check that misses transposed or packed tensors would fail every fused graph."""
    model = make_model(architecture)
    student = Student(model, make_config(architecture), tokenizer_folder, (INTENT,), INPUTS)
    export_candidate(student, tmp_path, precisions=["fp32"])

    used = used_weights(model, encoder.batch(encoder.encode(make_texts(2))))["intent"]

    assert len(used) >= 20
    for file in (PLAIN_FILE, FP32_FILE):
        assert lost_weights(used, tmp_path / file) == []


@pytest.mark.parametrize("file", [PLAIN_FILE, FP32_FILE])
@pytest.mark.parametrize(("tensor", "place"), [(BIAS, 2), (WORDS, 63 * 32 + 5)], ids=["bias", "a word of no text"])
def test_the_last_bit_of_one_number_is_found(
    candidate: tuple[Path, Candidate],
    student: Student,
    encoder: TextEncoder,
    tmp_path: Path,
    file: str,
    tensor: str,
    place: int,
) -> None:
    """No logit limit is needed, and no text that reads the weight."""
    used = used_weights(student.model, encoder.batch(encoder.encode(make_texts(2))))["intent"]
    value = float(used[tensor.removeprefix("model.")].reshape(-1)[place])
    step = float(np.nextafter(np.float32(value), np.float32(np.inf)) - np.float32(value))
    model = onnx.load(candidate[0] / file)
    shift_one_weight(tensor, step, place)(model)
    onnx.save_model(model, str(tmp_path / "mutant.onnx"))

    assert lost_weights(used, tmp_path / "mutant.onnx") == [tensor.removeprefix("model.")]


def test_a_transposed_or_packed_weight_is_found_too(
    candidate: tuple[Path, Candidate], student: Student, encoder: TextEncoder, tmp_path: Path
) -> None:
    """The weights of the query lie transposed in the plain graph and beside key and value in the fused one."""
    used = used_weights(student.model, encoder.batch(encoder.encode(make_texts(2))))["intent"]
    for file in (PLAIN_FILE, FP32_FILE):
        model = onnx.load(candidate[0] / file)
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor).copy()
            found = np.argwhere(array == used[QUERY][3, 4])
            for place in found:
                array[tuple(place)] += 0.5
            if len(found):
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        onnx.save_model(model, str(tmp_path / "mutant.onnx"))

        assert lost_weights(used, tmp_path / "mutant.onnx") == [QUERY]


def test_a_weight_that_no_logit_depends_on_is_not_asked_for(student: Student, encoder: TextEncoder) -> None:
    """A pooler that a head does not read is not exported; to miss it would fail every such student."""
    model = make_model("bert")
    model.unused = torch.nn.Parameter(torch.ones(2, 3))

    used = used_weights(model, encoder.batch(encoder.encode(make_texts(2))))["intent"]

    assert "unused" not in used
    assert used.keys() == used_weights(student.model, encoder.batch(encoder.encode(make_texts(2))))["intent"].keys()


def test_each_task_has_its_own_weights(encoder: TextEncoder) -> None:
    """The gate of a task must not fail for another task's head."""
    model = make_model("bert", (INTENT, TONE))

    used = used_weights(model, encoder.batch(encoder.encode(make_texts(2))))

    assert {name.split(".")[1] for name in used["intent"]} == {"intent"}
    assert {name.split(".")[1] for name in used["tone"]} == {"tone"}
