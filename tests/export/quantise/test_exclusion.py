"""Layers are left in fp32 until the gate holds: the search itself, and on a graph with one hostile layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.gates import Gate, decide_gate
from export.quantise.exclusion import MAX_LAYERS, search
from export.quantise.quantiser import Quantiser

LAYERS = [f"layer{number}" for number in range(10)]


def judge_by(ends: Sequence[tuple[float, float]]) -> Callable[[Sequence[str]], Gate]:
    """A gate of limit 0.01 whose interval is the n-th of these when n layers are fp32."""

    def judge(excluded: Sequence[str]) -> Gate:
        low, high = ends[len(excluded)]
        return decide_gate("drop", "int8 intent", (low + high) / 2, limit=0.01, low=low, high=high)

    return judge


def never() -> Sequence[str]:
    raise AssertionError("the ranking costs minutes and is not needed")


def test_a_gate_that_holds_costs_nothing() -> None:
    """Catches layers that are given away, or minutes of ranking, where nothing was wrong."""
    found = search(judge_by([(-0.01, 0.005)]), never, allow_inconclusive=False)
    assert found.layers == ()
    assert [step.verdict for step in found.steps] == ["passed"]
    assert "holds with every layer" in found.note


def test_the_worst_layers_go_first_and_no_more_than_needed() -> None:
    """Catches another order than the ranking's, and a search that goes on after the gate holds."""
    found = search(judge_by([(0.02, 0.04), (0.0, 0.02), (0.0, 0.009)]), lambda: LAYERS[::-1], allow_inconclusive=False)
    assert found.layers == ("layer9", "layer8")
    assert [(step.layer, step.verdict) for step in found.steps] == [
        (None, "failed"),
        ("layer9", "inconclusive"),
        ("layer8", "passed"),
    ]
    assert [step.metric_drop for step in found.steps] == pytest.approx([0.03, 0.01, 0.0045])
    assert found.note == "with every layer quantised the gate fails; with 2 layers in fp32 it holds"


def test_an_undecided_gate_is_worked_on_unless_it_is_allowed() -> None:
    """Catches an undecided gate that is taken for a good one, and layers given away where it is allowed."""
    judge = judge_by([(0.0, 0.02), (0.0, 0.005)])
    found = search(judge, lambda: LAYERS, allow_inconclusive=False)
    assert found.layers == ("layer0",)
    assert found.note == "with every layer quantised the gate is undecided; with 1 layer in fp32 it holds"
    assert search(judge, never, allow_inconclusive=True).layers == ()


@pytest.mark.parametrize(
    ("ends", "said"), [((0.0, 0.02), "too few to decide"), ((0.02, 0.04), "not even with 6 layers")]
)
def test_a_search_in_vain_gives_nothing_away_and_ends(ends: tuple[float, float], said: str) -> None:
    """Catches a slower artifact that fails its gate all the same, and a search over all layers."""
    found = search(judge_by([ends] * 20), lambda: LAYERS, allow_inconclusive=False)
    assert found.layers == ()
    assert len(found.steps) == MAX_LAYERS + 1
    assert said in found.note


def test_a_hostile_layer_is_found_and_left_out_alone(
    hostile: Path, plain: Path, quantiser_of: Callable[..., Quantiser], tmp_path: Path
) -> None:
    """Catches a ranking that misses the one layer that ruins the answers, or throws others out with it."""
    quantiser = quantiser_of(path=hostile, exclude="auto", metric_drop=0.15)
    summary = quantiser.write("int8", tmp_path / "int8.onnx")
    found = summary.exclusion
    (culprit,) = found.layers
    assert culprit.endswith("layer.0/attention/output/dense")
    assert summary.left_fp32 == (culprit,)
    assert [step.verdict for step in found.steps] == ["failed", "passed"]
    first, last = (step.metric_drop for step in found.steps)
    assert first is not None
    assert last is not None
    assert first > 0.5
    assert last < 0.1
    facts = next(facts for facts in summary.layers if facts.layer == culprit)
    assert (facts.stored, facts.reason) == ("fp32", "left in fp32 for the gate")


def test_what_an_exclusion_costs_is_measured(
    hostile: Path, quantiser_of: Callable[..., Quantiser], tmp_path: Path
) -> None:
    """Catches a price that is not told: bytes and time are what the user pays."""
    quantiser = quantiser_of(path=hostile, exclude=("*layer.0/attention/output*",))
    summary = quantiser.write("int8", tmp_path / "int8.onnx")
    whole = quantiser_of(path=hostile).write("int8", tmp_path / "whole.onnx")
    assert summary.exclusion.mode == "by name"
    assert summary.exclusion.bytes_paid == summary.actual_bytes - whole.actual_bytes > 0
    assert summary.exclusion.latency_ratio is not None
    ratio, low, high = summary.exclusion.latency_ratio
    assert low <= ratio <= high
    assert whole.exclusion.latency_ratio is None
    assert next(f.reason for f in summary.layers if f.stored == "fp32") == "left in fp32 by the recipe"


def test_the_hostile_graph_says_the_same_in_fp32(
    hostile: Path, plain: Path, quantiser_of: Callable[..., Quantiser]
) -> None:
    """Guards the fixture: a layer that is wrong in fp32 too would prove nothing."""
    probe = quantiser_of().validation_probe
    logits = probe.logits(quantiser_of().runner(onnx.load(hostile)))
    np.testing.assert_allclose(logits["intent"], probe.reference["intent"], atol=2e-3)
