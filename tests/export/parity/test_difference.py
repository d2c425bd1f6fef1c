"""The comparison of logits finds what is wrong with a graph; each defect here once left an export looking fine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.candidate import Candidate, Student
from export.parity import NO_LOGIT, compare
from export.runners import Inputs, Logits, Runner, run_texts, session_runner, torch_runner
from serving.claims import Parity
from serving.errors import UserError
from serving.manifest import TaskSpec
from serving.session import create_session
from serving.tokenise import TextEncoder
from tests.export.conftest import INTENT, URGENCY, double_weight, make_texts

Mutation = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def reference(student: Student) -> Runner:
    """The torch student."""
    return torch_runner(student.model)


@pytest.fixture
def parity_of(
    candidate: tuple[Path, Candidate], reference: Runner, encoder: TextEncoder, tmp_path: Path
) -> Callable[[Mutation], Parity]:
    """Parity of the fp32 graph after a mutation."""

    def measure(mutate: Mutation) -> Parity:
        model = onnx.load(candidate[0] / "model.fp32.onnx")
        mutate(model)
        path = tmp_path / "mutant.onnx"
        onnx.save_model(model, str(path))
        run = session_runner(create_session(path), [INTENT])
        return compare(reference, run, encoder, make_texts(), [INTENT])["intent"]

    return measure


def test_an_untouched_graph_passes(parity_of: Callable[[Mutation], Parity]) -> None:
    """A check that finds faults everywhere would find none that matter."""
    parity = parity_of(lambda model: None)

    assert parity.max_difference < 1e-4
    assert parity.agreement == 1.0
    assert parity.texts == 24
    assert {batch for batch, _ in parity.shapes} >= {1, 3, 7, 8}


def test_one_changed_weight_is_found(parity_of: Callable[[Mutation], Parity]) -> None:
    """The smallest damage of all: one bias vector of the classifier."""
    parity = parity_of(lambda model: double_weight(model, "model.models.intent.classifier.bias"))

    assert parity.max_difference > 1e-2


def test_a_dropped_attention_mask_is_found(parity_of: Callable[[Mutation], Parity]) -> None:
    """Without its mask a graph is right for every text alone, and wrong for every padded one."""

    def ignore_mask(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                if name == "attention_mask":
                    node.input[place] = "all_ones"
        ones = helper.make_tensor("one", TensorProto.INT64, [1], [1])
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["mask_shape"], ["all_ones"], value=ones))
        model.graph.node.insert(0, helper.make_node("Shape", ["attention_mask"], ["mask_shape"]))

    assert parity_of(ignore_mask).max_difference > 1e-2


@pytest.mark.parametrize(("axis", "size"), [(0, 1), (1, 9)])
def test_a_frozen_axis_is_found(parity_of: Callable[[Mutation], Parity], axis: int, size: int) -> None:
    """A graph that takes one shape only passes a check with that shape."""

    def freeze(model: onnx.ModelProto) -> None:
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[axis].dim_value = size

    parity = parity_of(freeze)

    assert parity.max_difference == NO_LOGIT
    assert parity.agreement < 1.0


def test_swapped_labels_are_found(parity_of: Callable[[Mutation], Parity]) -> None:
    """Logits in another order keep their distribution, so nothing but parity shows it."""

    def swap(model: onnx.ModelProto) -> None:
        order = helper.make_tensor("order", TensorProto.INT64, [3], [1, 0, 2])
        model.graph.initializer.append(order)
        for node in model.graph.node:
            for place, name in enumerate(node.output):
                if name == "logits":
                    node.output[place] = "unswapped"
        model.graph.node.append(helper.make_node("Gather", ["unswapped", "order"], ["logits"], axis=1))

    assert parity_of(swap).agreement < 0.9


def test_logits_that_are_no_numbers_disagree(reference: Runner, encoder: TextEncoder) -> None:
    """NaN compares false with everything: a careless check would call the difference small."""

    def broken(inputs: Inputs) -> Logits:
        return {name: np.full_like(logits, np.nan) for name, logits in reference(inputs).items()}

    parity = compare(reference, broken, encoder, make_texts(), [INTENT])["intent"]

    assert parity.max_difference == NO_LOGIT
    assert parity.agreement == 0.0


def test_a_regression_agrees_within_a_hundredth_of_its_range(encoder: TextEncoder) -> None:
    """Values are never equal; agreement must mean something for a regression too."""

    def shifted(by: float) -> Runner:
        return lambda inputs: {"urgency": np.full((len(inputs["input_ids"]), 1), 0.5 + by, dtype=np.float32)}

    def agreement(by: float) -> float:
        return compare(shifted(0.0), shifted(by), encoder, make_texts(5), [URGENCY])["urgency"].agreement

    assert agreement(0.009) == 1.0
    assert agreement(0.011) == 0.0


def test_a_multilabel_answer_agrees_only_when_every_label_does(encoder: TextEncoder) -> None:
    """Averaging over labels would call an answer with one wrong label of ten ninety per cent right."""
    topics = TaskSpec(name="topics", type="multilabel", labels=("x", "y"))

    def constant(*logits: float) -> Runner:
        return lambda inputs: {"topics": np.tile(np.array(logits, dtype=np.float32), (len(inputs["input_ids"]), 1))}

    parity = compare(constant(1.0, 1.0), constant(1.0, -1.0), encoder, make_texts(5), [topics])["topics"]

    assert parity.agreement == 0.0
    assert (parity.max_difference, parity.mean_difference) == (2.0, 1.0)


def test_texts_run_in_batches_come_back_in_their_order(reference: Runner, encoder: TextEncoder) -> None:
    """Sorting by length and not undoing it would pair every answer with another text's label."""
    encodings = encoder.encode(make_texts(17))

    together = run_texts(reference, encoder, encodings, batch_size=4)["intent"]

    alone = np.concatenate([reference(encoder.batch([encoding]))["intent"] for encoding in encodings])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_no_texts_is_an_error(reference: Runner, encoder: TextEncoder) -> None:
    """Parity over nothing is perfect."""
    with pytest.raises(UserError, match="no texts"):
        compare(reference, reference, encoder, [], [INTENT])


@pytest.mark.parametrize(
    "broken",
    [
        lambda inputs: {},
        lambda inputs: {"intent": np.zeros((1, 3), dtype=np.float32)},
        lambda inputs: {"intent": np.full((len(inputs["input_ids"]), 3), -np.inf, dtype=np.float32)},
    ],
    ids=["no output", "one row", "infinite"],
)
def test_a_graph_without_logits_differs_as_far_as_can_be(
    reference: Runner, encoder: TextEncoder, broken: Runner
) -> None:
    """What a broken graph does not say must not be filled with something that could agree."""
    parity = compare(reference, broken, encoder, make_texts(), [INTENT])["intent"]

    assert parity.max_difference == NO_LOGIT
    assert parity.agreement < 0.7
