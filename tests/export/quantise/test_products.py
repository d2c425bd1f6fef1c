"""The three int8 forms of a matrix product: by hand, against each other, and against ONNX Runtime's own quantiser."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.quantise.dynamic import dynamic_product
from export.quantise.integers import SIGNED_7, SIGNED_8, UNSIGNED_8, WeightForm, affine, quantise_columns
from export.quantise.layers import find_layers
from export.quantise.quantiser import Quantiser
from export.quantise.replacement import Product
from export.quantise.rewrite import rewrite, switch_of, switchable
from export.quantise.static import static_product
from export.quantise.weights import fitting_block, weight_product
from export.quiet import quiet_logging
from serving.host import cpu_features, saturates_int8
from tests.export.conftest import INTENT, make_texts
from tests.export.quantise.conftest import Floats, product_graph

WEIGHT = np.array([[1.27, -0.5], [-0.3, 0.25]], dtype=np.float32)
RANGES = {"x": (-1.0, 1.55)}
PRODUCTS = {  # of 7 bits, which are right on every CPU
    "int8": dynamic_product(SIGNED_7),
    "int8_static": static_product(SIGNED_7, RANGES),
    "int8_weights": weight_product(block=16),
}


def run(model: onnx.ModelProto, *inputs: Floats, **more: NDArray[np.generic]) -> Floats:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Floats = session.run(None, dict(zip(["x"], inputs, strict=True)) | more)[0]
    return found


def quantised(weight: Floats, product: Product) -> onnx.ModelProto:
    model = product_graph(weight)
    made = rewrite(model, find_layers(model), product)
    onnx.checker.check_model(made)
    return made


@pytest.mark.parametrize("form", [SIGNED_7, UNSIGNED_8])
def test_a_static_product_of_two_by_two_by_hand(form: WeightForm) -> None:
    """Catches a zero point left out of the sum, and scales that are multiplied with the wrong side."""
    values = np.array([[0.5, -0.25], [3.0, -3.0]], dtype=np.float32)  # the second row is clipped at both ends
    steps = np.array([[150, 75], [255, 0]])  # 0.5 / 0.01 + 100, ...
    integers, scales = quantise_columns(WEIGHT, form)
    by_hand = (steps - 100) @ (integers.astype(int) - form.zero) * 0.01 * scales
    found = run(quantised(WEIGHT, static_product(form, RANGES)), values)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_the_graph_holds_the_ranges_that_were_given() -> None:
    """Catches a scale that is made from the weights, or of another activation."""
    tensors = {t.name: numpy_helper.to_array(t) for t in quantised(WEIGHT, PRODUCTS["int8_static"]).graph.initializer}
    scale, zero = affine(*RANGES["x"])
    assert tensors["x_scale"] == scale
    assert tensors["x_zero"] == zero == 100
    assert tensors["w_scale"].shape == (2,)


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_form_is_close_to_the_float_product(name: str) -> None:
    """Catches a transposed weight and blocks in the wrong order: both run and are wrong."""
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(40, 24)).astype(np.float32)
    values = generator.uniform(-1, 1.5, size=(5, 40)).astype(np.float32)
    found = run(quantised(weight, PRODUCTS[name]), values)
    assert 0 < np.abs(found - values @ weight).max() < 0.25


@pytest.mark.skipif(not saturates_int8(cpu_features()), reason="this CPU's sums of 8-bit products do not saturate")
@pytest.mark.parametrize("make", [dynamic_product, partial(static_product, ranges={"x": (0.0, 1.0)})])
def test_on_a_saturating_cpu_eight_bits_are_wrong_and_seven_or_unsigned_are_right(
    make: Callable[[WeightForm], Product],
) -> None:
    """Catches a form that overflows where it is used, and proves that the hazard is real on such a CPU."""
    weight, values = np.ones((64, 16), dtype=np.float32), np.ones((4, 64), dtype=np.float32)
    worst = {
        form: float(np.abs(run(quantised(weight, make(form)), values) - 64).max())
        for form in (SIGNED_7, UNSIGNED_8, SIGNED_8)
    }
    assert worst[SIGNED_7] < 0.1
    assert worst[UNSIGNED_8] < 0.1
    assert worst[SIGNED_8] > 20


def test_weight_only_products_do_not_saturate_on_any_cpu() -> None:
    """Catches a kernel that adds pairs of 8-bit products in 16 bits under MatMulNBits too."""
    weight, values = np.ones((64, 16), dtype=np.float32), np.ones((4, 64), dtype=np.float32)
    for sign in (1, -1):
        np.testing.assert_allclose(run(quantised(sign * weight, weight_product()), values), sign * 64.0, rtol=1e-3)


def test_a_dynamic_product_takes_its_scale_from_the_whole_batch() -> None:
    """Catches a form that is sold as dynamic and has a fixed range: an outlier elsewhere must move the row."""
    graph = quantised(np.eye(4, dtype=np.float32), PRODUCTS["int8"])
    row = np.array([[0.1, 0.2, 0.3, 0.4]], dtype=np.float32)
    beside = run(graph, np.vstack([row, 100 * row]))[0]
    assert np.abs(run(graph, row)[0] - row).max() < 0.002
    assert np.abs(beside - row).max() > 0.02


@pytest.mark.parametrize("name", ["int8_static", "int8_weights"])
def test_a_static_or_weight_only_product_ignores_neighbours(name: str) -> None:
    """Catches an invariant form that scales over the batch after all."""
    graph = quantised(np.eye(4, dtype=np.float32), PRODUCTS[name])
    row = np.array([[0.1, 0.2, 0.3, 0.4]], dtype=np.float32)
    np.testing.assert_array_equal(run(graph, np.vstack([row, 100 * row]))[0], run(graph, row)[0])


@pytest.mark.parametrize("seven_bits", [False, True])
def test_dynamic_logits_are_those_of_onnxruntimes_own_quantiser(
    plain: Path, quantiser_of: Callable[..., Quantiser], tmp_path: Path, seven_bits: bool
) -> None:
    """Catches a form of ours that the runtime fuses otherwise, rounds otherwise or forgets a layer in."""
    with quiet_logging():
        quantize_dynamic(
            str(plain),
            str(tmp_path / "theirs.onnx"),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=seven_bits,
            weight_type=QuantType.QInt8,
        )
    quantiser = quantiser_of(texts=False)
    products = [layer for layer in quantiser.usable if layer.is_product]
    ours = rewrite(quantiser.plain, products, dynamic_product(SIGNED_7 if seven_bits else SIGNED_8))
    theirs = quantiser.runner(onnx.load(tmp_path / "theirs.onnx"))
    for encoding in quantiser.encoder.encode(make_texts(8)):
        batch = quantiser.encoder.batch([encoding])
        np.testing.assert_allclose(quantiser.runner(ours)(batch)["intent"], theirs(batch)["intent"], atol=1e-5)
    assert INTENT.name == "intent"


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_switch_picks_between_the_exact_and_the_quantised_product(name: str) -> None:
    """Catches a sensitivity that is measured on the wrong one of the two."""
    generator = np.random.default_rng(0)
    weight, values = generator.normal(size=(40, 24)).astype(np.float32), np.ones((2, 40), dtype=np.float32)
    model = product_graph(weight)
    layers = find_layers(model)
    both = switchable(model, layers, PRODUCTS[name])
    onnx.checker.check_model(both)
    flag = switch_of(layers[0])
    np.testing.assert_array_equal(run(both, values, **{flag: np.array(False)}), run(model, values))
    chosen = run(both, values, **{flag: np.array(True)})
    np.testing.assert_allclose(chosen, run(quantised(weight, PRODUCTS[name]), values), rtol=1e-6)
    assert not np.array_equal(chosen, run(model, values))


@pytest.mark.parametrize(("inputs", "block"), [(384, 128), (1536, 128), (312, 64), (32, 32), (48, 64), (100, 128)])
def test_blocks_are_as_large_as_fits_without_filling(inputs: int, block: int) -> None:
    """Catches a block of 128 that makes the file of a narrow layer a fifth larger, with zeros."""
    assert fitting_block(inputs) == block
    graph = quantised(np.ones((inputs, 4), dtype=np.float32), weight_product())
    (node,) = graph.graph.node
    found = {attribute.name: attribute.i for attribute in node.attribute}
    assert (found["block_size"], found["bits"], found["accuracy_level"]) == (block, 8, 4)


def test_weights_that_nothing_reads_any_more_are_left_out() -> None:
    """Catches an int8 file that is larger than the fp32 one because it carries both."""
    for product in PRODUCTS.values():
        assert "w" not in {tensor.name for tensor in quantised(WEIGHT, product).graph.initializer}
    kept = switchable(product_graph(WEIGHT), find_layers(product_graph(WEIGHT)), PRODUCTS["int8"])
    assert {"w", "w_int8"} <= {tensor.name for tensor in kept.graph.initializer}


def test_a_rewritten_graph_carries_no_intermediate_shapes(quantiser_of: Callable[..., Quantiser]) -> None:
    """With them the runtime picks slower fused operators when it loads the graph."""
    assert not quantiser_of(texts=False).graph("int8").graph.value_info
