"""Differences from fp32: logits, answers and metric, for every kind of task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from export.quantise.probe import Probe
from export.quantise.quantiser import Quantiser
from export.runners import Inputs, Logits
from export.sample import Sample
from serving.manifest import TaskSpec
from serving.tokenise import TextEncoder
from tests.export.conftest import INTENT, URGENCY, accuracy, make_texts


def constant(**logits: list[float]) -> Callable[[Inputs], Logits]:
    """Says the same to every text."""

    def run(inputs: Inputs) -> Logits:
        rows = inputs["input_ids"].shape[0]
        return {name: np.tile(np.array(row, dtype=np.float32), (rows, 1)) for name, row in logits.items()}

    return run


@pytest.fixture
def probe(encoder: TextEncoder) -> Probe:
    """Four texts of a classification and two of a regression, whose fp32 graph says the same to all."""
    samples = {
        "intent": Sample(make_texts(4), np.array([1, 1, 1, 0]), accuracy),
        "urgency": Sample(make_texts(2), np.array([3.0, 3.0]), lambda labels, values: -float(np.mean(values))),
    }
    return Probe(encoder, [INTENT, URGENCY], samples, constant(intent=[0.0, 1.0, 0.5], urgency=[0.5]))


def test_the_effect_by_hand(probe: Probe) -> None:
    """Catches a mean over tasks instead of values, a sign that is turned, and the better task in place of the worse."""
    found = probe.effect(probe.logits(constant(intent=[2.0, 1.0, 0.5], urgency=[0.5])))
    assert found.squared_error == pytest.approx(4 * 4.0 / (4 * 3 + 2))
    assert found.metric_change == pytest.approx(0.25 - 0.75)
    assert found.answers_changed == pytest.approx(4 / 6)
    assert probe.num_texts == 6


def test_a_regression_changes_its_answer_by_more_than_a_hair(probe: Probe) -> None:
    """Catches every value of a regression that counts as changed, since none is equal to the last bit."""
    near = probe.effect(probe.logits(constant(intent=[0.0, 1.0, 0.5], urgency=[0.501])))
    far = probe.effect(probe.logits(constant(intent=[0.0, 1.0, 0.5], urgency=[0.6])))
    assert near.answers_changed == 0.0
    assert far.answers_changed == pytest.approx(2 / 6)


def test_an_undefined_metric_is_none(encoder: TextEncoder) -> None:
    """Catches a NaN that JSON cannot hold."""
    sample = Sample(make_texts(2), np.array([0, 0]), lambda *_: float("nan"))
    found = Probe(encoder, [INTENT], {"intent": sample}, constant(intent=[0.0, 1.0, 0.5]))
    assert found.effect(found.reference).metric_change is None


def test_the_gate_is_that_of_the_worst_task(probe: Probe) -> None:
    """Catches a gate that one good task of several lets pass."""
    task: TaskSpec = INTENT
    logits = probe.logits(constant(intent=[2.0, 1.0, 0.5], urgency=[0.5]))
    gate = probe.gate(logits, subject="int8", limit=0.01)
    assert (gate.subject, gate.name) == (f"int8 {task.name}", "quantisation_metric_drop")
    assert gate.measured == pytest.approx(0.5)
    same = probe.gate(probe.reference, subject="int8", limit=0.01)
    assert (same.verdict, same.measured) == ("passed", 0.0)


def test_texts_run_one_by_one(quantiser_of: Callable[..., Quantiser]) -> None:
    """Catches neighbours that change dynamic int8's answers while layers are compared."""
    seen: list[int] = []

    def run(inputs: Inputs) -> Logits:
        seen.append(inputs["input_ids"].shape[0])
        return constant(intent=[0.0, 1.0, 0.5])(inputs)

    quantiser_of().ranking_probe.logits(run)
    assert set(seen) == {1}
