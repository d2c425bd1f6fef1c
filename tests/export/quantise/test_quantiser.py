"""Every precision's file: what was quantised is counted, nothing quantised is an error, what stays is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.precision import count_quantised_operators, ir_version_of, opset_of
from export.quantise import forms
from export.quantise.forms import INTEGER_PRECISIONS, form_of
from export.quantise.integers import SIGNED_7, SIGNED_8, UNSIGNED_8
from export.quantise.quantiser import PRECISIONS, Quantiser
from serving.errors import UserError
from serving.tokenise import TextEncoder
from tests.export.conftest import INTENT
from tests.export.quantise.conftest import product_graph


@pytest.fixture
def without_weights(tmp_path: Path) -> Path:
    """A product of two inputs."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input_ids_float", "w"], ["logits"], name="product")],
        "product",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "a"]) for name in ("input_ids_float", "w")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["a", "a"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, str(tmp_path / "plain.onnx"))
    return tmp_path / "plain.onnx"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_layer_of_every_precision_is_accounted_for(
    precision: str, quantiser_of: Callable[..., Quantiser], tmp_path: Path
) -> None:
    """Catches quantisation that skipped embeddings or layers and is sold as small and fast."""
    target = tmp_path / "made.onnx"
    summary = quantiser_of().write(precision, target)
    assert summary.operators == {"MatMul": 14, "Gather": 3} == count_quantised_operators(target)
    assert summary.left_fp32 == ()
    assert summary.num_quantised == 17
    assert len(summary.layers) == 17
    assert {facts.stored for facts in summary.layers} == {"fp16" if precision == "fp16" else "int8"}
    assert all(facts.reason is None for facts in summary.layers)
    assert summary.actual_bytes == target.stat().st_size
    for facts in summary.layers:
        assert facts.expected_bytes == facts.weights * (2 if precision == "fp16" else 1)
        assert facts.actual_bytes >= facts.expected_bytes


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_answers_almost_as_fp32(
    precision: str, quantiser_of: Callable[..., Quantiser], tmp_path: Path
) -> None:
    """Catches a form that runs and is wrong, on this CPU whatever its instruction sets."""
    quantiser = quantiser_of()
    quantiser.write(precision, tmp_path / "made.onnx")
    probe = quantiser.validation_probe
    effect = probe.effect(probe.logits(quantiser.runner(onnx.load(tmp_path / "made.onnx"))))
    spread = float(np.var(probe.reference["intent"]))
    assert 0 < effect.squared_error < 0.05 * spread
    assert effect.answers_changed <= 0.1


@pytest.mark.parametrize("precision", INTEGER_PRECISIONS)
def test_a_graph_with_nothing_to_quantise_is_refused(
    precision: str, without_weights: Path, quantiser_of: Callable[..., Quantiser], tmp_path: Path
) -> None:
    """Silently writing an fp32 file called int8 is the failure users of other tools meet."""
    with pytest.raises(UserError, match=rf"nothing in plain\.onnx could be quantised.*Leave {precision} out"):
        quantiser_of(path=without_weights).write(precision, tmp_path / "made.onnx")
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.parametrize("precision", INTEGER_PRECISIONS)
def test_excluding_everything_is_refused(
    precision: str, quantiser_of: Callable[..., Quantiser], tmp_path: Path
) -> None:
    """The same, by way of the exclusion list."""
    with pytest.raises(UserError, match="nothing"):
        quantiser_of(exclude=("*",)).write(precision, tmp_path / "made.onnx")
    assert not (tmp_path / "made.onnx").exists()


@pytest.mark.parametrize("precision", ["int8_static", "fp16"])
def test_what_needs_texts_says_so(precision: str, quantiser_of: Callable[..., Quantiser], tmp_path: Path) -> None:
    """Catches ranges or overflows that nobody looked for, and a traceback."""
    with pytest.raises(UserError, match="none were given"):
        quantiser_of(texts=False).write(precision, tmp_path / "made.onnx")


def test_without_texts_nothing_is_excluded_by_itself(quantiser_of: Callable[..., Quantiser], tmp_path: Path) -> None:
    """Catches a search that judges on no texts at all."""
    summary = quantiser_of(texts=False, exclude="auto").write("int8", tmp_path / "made.onnx")
    assert summary.left_fp32 == ()
    assert "no validation texts" in summary.exclusion.note


def test_an_unknown_range_is_refused(quantiser_of: Callable[..., Quantiser]) -> None:
    """Catches a typo that falls back to some default."""
    with pytest.raises(UserError, match=r"no export\.ranges 'minmix'. Choose one of: minmax"):
        quantiser_of(ranges="minmix")


def test_expected_bytes_by_hand(encoder: TextEncoder, tmp_path: Path) -> None:
    """A summary computed from intentions instead of the written graph would always look right."""
    path = tmp_path / "plain.onnx"
    onnx.save_model(product_graph(np.ones((4, 512), dtype=np.float32)), str(path))
    summary = Quantiser(path, encoder, [INTENT]).write("int8", tmp_path / "made.onnx")
    assert summary.expected_bytes == 4 * 512
    (facts,) = summary.layers
    assert facts.actual_bytes == 4 * 512 + 512 * 4 + 512  # integers, scales, zero points
    assert count_quantised_operators(path) == {}


def test_saturating_cpus_get_weights_of_seven_bits(
    quantiser_of: Callable[..., Quantiser], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches weights of 8 bits where pairs of products overflow 16 bits: a toy lost a quarter of its answers."""
    assert [form_of(name, saturates=True) for name in INTEGER_PRECISIONS] == [SIGNED_7, SIGNED_7, UNSIGNED_8]
    assert [form_of(name, saturates=False) for name in INTEGER_PRECISIONS] == [SIGNED_8, SIGNED_8, UNSIGNED_8]
    for saturates, largest in ((True, 64), (False, 127)):
        monkeypatch.setattr("export.quantise.quantiser.products_saturate", lambda found=saturates: found)
        for precision in ("int8", "int8_static"):
            tensors = quantiser_of().graph(precision).graph.initializer
            weights = [numpy_helper.to_array(t) for t in tensors if t.name.endswith("_int8") and "embed" not in t.name]
            assert max(int(np.abs(array.astype(int)).max()) for array in weights) == largest
    assert forms.HALF == "fp16"


def test_versions_are_read_from_the_file(tmp_path: Path) -> None:
    """An opset taken from a constant would be wrong as soon as another one is asked for."""
    model = product_graph(np.ones((4, 4), dtype=np.float32))
    model.opset_import.insert(0, helper.make_opsetid("com.microsoft", 1))
    onnx.save_model(model, str(tmp_path / "plain.onnx"))
    assert opset_of(tmp_path / "plain.onnx") == 17
    assert ir_version_of(tmp_path / "plain.onnx") == 8


def test_operators_of_another_domain_are_declared(quantiser_of: Callable[..., Quantiser]) -> None:
    """Catches a graph that one runtime reads by chance and the checker refuses."""
    graph = quantiser_of().graph("int8_weights")
    assert {entry.domain for entry in graph.opset_import} == {"", "com.microsoft"}
    assert {entry.domain for entry in quantiser_of().graph("int8").opset_import} == {""}
