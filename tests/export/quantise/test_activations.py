"""What flows through a graph: the right tensors, without padding, whatever the order of the texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from export.quantise.activations import input_histograms, largest_magnitudes, source_names
from export.quantise.quantiser import Quantiser
from export.quantise.ranges import histogram_of
from serving.tokenise import TextEncoder
from tests.export.conftest import make_texts


def test_histograms_are_those_of_the_tensors_themselves(
    quantiser_of: Callable[..., Quantiser], encoder: TextEncoder
) -> None:
    """Catches ranges of an output instead of an input, and padding that is counted as an activation."""
    quantiser = quantiser_of()
    encodings = encoder.encode(make_texts(6))
    found = input_histograms(quantiser.plain, quantiser.usable, encoder, encodings)
    sources = source_names(quantiser.plain, quantiser.usable)
    assert found.keys() == set(sources.values())
    first = sources[next(layer.nodes[0] for layer in quantiser.usable if layer.role == "attention query")]
    tokens = sum(len(encoding.input_ids) for encoding in encodings)
    assert found[first].total == tokens * 32
    backwards = input_histograms(quantiser.plain, quantiser.usable, encoder, encodings[::-1])
    for name, histogram in found.items():
        np.testing.assert_array_equal(histogram.counts, backwards[name].counts)


def test_query_key_and_value_share_their_input(quantiser_of: Callable[..., Quantiser]) -> None:
    """Catches three ranges for one tensor: the graph would quantise it three times.

    The last layer's query reads the first token's row of it, which has a range of its own.
    """
    quantiser = quantiser_of()
    sources = source_names(quantiser.plain, quantiser.usable)
    by_block: dict[int | None, set[str]] = {}
    for layer in quantiser.usable:
        if layer.role in ("attention query", "attention key", "attention value"):
            by_block.setdefault(layer.block, set()).add(sources[layer.nodes[0]])
    assert [len(found) for found in by_block.values()] == [1, 2]
    quantised = [node for node in quantiser.graph("int8_static").graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantised) == len(set(sources.values()))


def test_a_static_graph_holds_the_ranges_of_its_calibration(quantiser_of: Callable[..., Quantiser]) -> None:
    """Catches ranges that are learned and then not used, or used for another layer."""
    quantiser = quantiser_of(ranges="minmax")
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in quantiser.graph("int8_static").graph.initializer}
    for name, histogram in quantiser.histograms.items():
        low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
        np.testing.assert_allclose(tensors[f"{name}_scale"], (high - low) / 255, rtol=1e-5)
        assert abs(float(tensors[f"{name}_zero"]) - 255 * -low / (high - low)) <= 0.51


def test_largest_magnitudes_are_those_of_the_tensors(
    quantiser_of: Callable[..., Quantiser], encoder: TextEncoder
) -> None:
    """Catches a largest value that forgets the negative side, or all texts but the last."""
    quantiser = quantiser_of()
    encodings = encoder.encode(make_texts(5))
    found = largest_magnitudes(quantiser.plain, encoder, encodings)
    histograms = input_histograms(quantiser.plain, quantiser.usable, encoder, encodings)
    for name, histogram in histograms.items():
        assert found[name] == pytest.approx(max(abs(histogram.low), abs(histogram.high)), rel=1e-5)
    assert "logits" in found
    assert histogram_of(np.array([found["logits"]])).total == 1
