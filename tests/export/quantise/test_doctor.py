"""What each layer's quantisation costs, measured on the graph and not guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.quantise.clipping import METHODS
from export.quantise.doctor import Explanation, explain
from export.quantise.forms import INTEGER_PRECISIONS
from export.quantise.quantiser import Quantiser
from export.quantise.sensitivity import rank_by_error


@pytest.fixture(scope="module")
def explained(quantiser_of: Callable[..., Quantiser]) -> Explanation:
    """int8_static of the tiny BERT."""
    return explain(quantiser_of(), "int8_static")


@pytest.mark.parametrize("precision", INTEGER_PRECISIONS)
def test_a_switchboard_says_what_the_written_graph_says(precision: str, quantiser_of: Callable[..., Quantiser]) -> None:
    """Catches a sensitivity of another graph than the one that is served."""
    quantiser = quantiser_of()
    board, probe = quantiser.switchboard(precision), quantiser.ranking_probe
    names = [layer.name for layer in quantiser.usable]
    for quantised in (names, [], names[3:9]):
        excluded = [name for name in names if name not in quantised]
        graph = quantiser.graph(precision, excluded) if quantised else quantiser.plain
        written = probe.logits(quantiser.runner(graph))
        np.testing.assert_allclose(probe.logits(board.runner(quantised))["intent"], written["intent"], atol=1e-4)


def test_every_layer_is_measured_alone_and_left_out(
    explained: Explanation, quantiser_of: Callable[..., Quantiser]
) -> None:
    """Catches a layer whose switch does nothing: its error alone would be zero."""
    quantiser = quantiser_of()
    assert [found.layer for found in explained.sensitivity] == [layer.name for layer in quantiser.usable]
    assert all(found.only.squared_error > 0 for found in explained.sensitivity)
    everything = quantiser.ranking_probe
    whole = everything.effect(everything.logits(quantiser.runner(quantiser.graph("int8_static")))).squared_error
    for found in explained.sensitivity:
        assert found.only.squared_error < 2 * whole
        assert 0 < found.without.squared_error < 3 * whole
        assert 0 <= found.only.answers_changed <= 1
        assert found.only.metric_change is not None
    assert explained.texts == quantiser.ranking_probe.num_texts == 20


def test_the_hostile_layer_stands_out(hostile: Path, quantiser_of: Callable[..., Quantiser]) -> None:
    """Catches errors under the wrong layer's name."""
    quantiser = quantiser_of(path=hostile)
    found = explain(quantiser, "int8").sensitivity
    worst = max(found, key=lambda item: item.only.squared_error)
    best = min(found, key=lambda item: item.without.squared_error)
    assert worst.layer == best.layer
    assert worst.layer.endswith("layer.0/attention/output/dense")
    ranking = rank_by_error(quantiser.switchboard("int8"), quantiser.ranking_probe)
    assert ranking[0] == worst.layer
    assert sorted(ranking) == sorted(item.layer for item in found)


def test_ways_of_choosing_ranges_are_compared_on_the_whole_graph(
    explained: Explanation, quantiser_of: Callable[..., Quantiser]
) -> None:
    """Catches a comparison of one method with itself, and clipping that is not told."""
    reports = {report.method: report for report in explained.ranges}
    assert list(reports) == list(METHODS)
    assert [report.method for report in explained.ranges if report.is_chosen] == ["mse"]
    assert reports["minmax"].clipped == reports["minmax"].worst_clipped == 0
    assert 0 < reports["percentile_99.9"].clipped < 0.005
    assert reports["percentile_99.9"].clipped <= reports["percentile_99.9"].worst_clipped
    assert explained.calibration_texts == 20
    of_more_texts = explain(quantiser_of(num_texts=60), "int8_static").ranges  # of 20, some methods clip nothing
    assert len({report.effect.squared_error for report in of_more_texts}) == len(METHODS)


def test_only_static_graphs_have_ranges_and_fp16_has_no_switches(quantiser_of: Callable[..., Quantiser]) -> None:
    """Catches ranges that are learned for a graph that has none."""
    quantiser = quantiser_of()
    assert explain(quantiser, "int8_weights").ranges == ()
    assert explain(quantiser, "fp16") == Explanation(texts=20)
