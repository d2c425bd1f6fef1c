"""fp16: what would overflow stays fp32 and is named; masks are clipped and still mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export.quantise.activations import largest_magnitudes
from export.quantise.half import LARGEST_HALF, find_fallbacks, to_half
from export.quantise.layers import find_layers
from export.quantise.quantiser import Quantiser
from tests.export.conftest import make_texts
from tests.export.quantise.conftest import scale_part


@pytest.fixture(scope="module")
def overflowing(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same answers in fp32, but a value that reaches a million and is made small again by the next layer."""
    model = onnx.load(plain)
    names = {layer.role: layer.weight for layer in find_layers(model) if layer.block == 1}
    scale_part(model, names["attention value"], (slice(None), 3), 1e6)
    scale_part(model, names["attention output"], (3, slice(None)), 1e-6)
    path = tmp_path_factory.mktemp("overflow") / "plain.onnx"
    onnx.save_model(model, str(path))
    return path


def test_weights_are_sixteen_bits_and_inputs_and_outputs_are_as_before(
    quantiser_of: Callable[..., Quantiser], tmp_path: Path
) -> None:
    """Catches a graph that servers cannot feed any more, and one that is fp16 in name only."""
    summary = quantiser_of().write("fp16", tmp_path / "half.onnx")
    model = onnx.load(tmp_path / "half.onnx")
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2}
    assert kinds == {TensorProto.FLOAT16}
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {TensorProto.INT64}
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {TensorProto.FLOAT}
    assert not any("met " in reason for reason in summary.fallbacks.values())


def test_what_would_overflow_stays_fp32_and_is_named(
    overflowing: Path, quantiser_of: Callable[..., Quantiser], tmp_path: Path
) -> None:
    """Catches infinities that a GPU would answer with, and a fallback that nobody is told of."""
    quantiser = quantiser_of(path=overflowing)
    summary = quantiser.write("fp16", tmp_path / "half.onnx")
    named = {name for name, reason in summary.fallbacks.items() if reason.startswith("met ")}
    assert any("layer.1/attention/self/value/MatMul" in name for name in named)
    assert any("layer.1/attention/output/dense/MatMul" in name for name in named)  # it reads the large value
    assert not any("layer.0" in name for name in named)
    assert {facts.role for facts in summary.layers if facts.stored == "fp32"} == {"attention value", "attention output"}
    probe = quantiser.validation_probe
    logits = probe.logits(quantiser.runner(onnx.load(tmp_path / "half.onnx")))
    assert np.isfinite(logits["intent"]).all()
    assert probe.effect(logits).answers_changed <= 0.05


def test_without_the_fallback_the_graph_would_overflow(
    overflowing: Path, quantiser_of: Callable[..., Quantiser]
) -> None:
    """Guards the test above: a value that fits would prove nothing."""
    quantiser = quantiser_of(path=overflowing)
    careless = to_half(quantiser.plain, find_fallbacks(quantiser.plain, {}))
    logits = quantiser.validation_probe.logits(quantiser.runner(careless))["intent"]
    exact = quantiser.validation_probe.reference["intent"]
    assert not np.isfinite(logits).all() or np.abs(logits - exact).max() > 0.5


def test_headroom_is_kept_and_masks_are_no_overflow(quantiser_of: Callable[..., Quantiser]) -> None:
    """Catches a value that fits by a hair on these texts, and every attention score kept fp32 for its mask."""
    quantiser = quantiser_of()
    output = quantiser.plain.graph.node[-1].output[0]
    for largest, is_kept in ((LARGEST_HALF / 2 + 1, True), (LARGEST_HALF / 2 - 1, False), (3.4e38, False)):
        assert bool(find_fallbacks(quantiser.plain, {output: largest}).overflow) == is_kept
    encodings = quantiser.encoder.encode(make_texts(4))
    seen = largest_magnitudes(quantiser.plain, quantiser.encoder, encodings)
    assert not find_fallbacks(quantiser.plain, seen).overflow


def test_padding_is_masked_as_before(quantiser_of: Callable[..., Quantiser], tmp_path: Path) -> None:
    """Catches a clipped mask that no longer hides padding."""
    quantiser = quantiser_of()
    quantiser.write("fp16", tmp_path / "half.onnx")
    run = quantiser.runner(onnx.load(tmp_path / "half.onnx"))
    short, long = sorted(quantiser.encoder.encode(make_texts(12)), key=len)[::11]
    alone = run(quantiser.encoder.batch([short]))["intent"][0]
    beside = run(quantiser.encoder.batch([short, long]))["intent"][0]
    np.testing.assert_allclose(alone, beside, atol=0.02)


def test_fp16_is_never_a_cpus_default() -> None:
    """Catches a server that runs casts around every operator because a GPU artifact was timed well."""
    from export.measure import fastest

    class Measured:
        def __init__(self, precision: str) -> None:
            self.precision, self.passed = precision, True

    assert fastest([Measured("fp32"), Measured("fp16")], {"fp32": 2.0, "fp16": 1.0}) == "fp32"  # type: ignore[list-item]
    assert fastest([Measured("fp16")], {"fp16": 1.0}) is None  # type: ignore[list-item]
