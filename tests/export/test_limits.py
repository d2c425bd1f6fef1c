"""Operations counted against a second count by hand, peaks, and the share of the limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.candidate import Candidate
from export.limits import Peaks, Work, count_work, hold_against_peaks, last_cache_bytes, measure_peaks
from export.limits.work import count_weight_bytes, product_operations, work_of
from serving.tokenise import TextEncoder

PEAKS = Peaks(threads=1, fp32=100.0, int8=400.0, read_bytes=50.0, cache_bytes=1000)


def _batch(batch: int, tokens: int) -> dict[str, np.ndarray]:
    return {
        "input_ids": np.full((batch, tokens), 5, dtype=np.int64),
        "attention_mask": np.ones((batch, tokens), dtype=np.int64),
    }


def _by_hand(batch: int, tokens: int) -> float:
    """Operations of the toy BERT: 2 layers of width 32, inner width 48, a pooler and 3 labels.

    The second layer has keys and values of all tokens, and everything else of the first one alone.
    """
    keys_and_values = 2 * (2 * 32 * 32)
    other_products = 2 * (2 * 32 * 32 + 2 * 32 * 48)
    attention = 2 * 2 * tokens * 32
    first_layer = tokens * (keys_and_values + other_products + attention)
    second_layer = tokens * keys_and_values + other_products + attention
    return float(batch * (first_layer + second_layer) + 2 * batch * (32 * 32 + 32 * 3))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("shape", [(1, 7), (8, 20)])
def test_operations_are_those_of_a_second_count(
    candidate: tuple[Path, Candidate], precision: str, shape: tuple[int, int]
) -> None:
    """A forgotten operator makes the limit too high and the reached share too low."""
    folder, made = candidate
    path = folder / next(graph.file for graph in made.graphs if graph.precision == precision)

    work = count_work(path, [_batch(*shape), _batch(1, 3)])

    assert sum(work.operations.values()) == pytest.approx(_by_hand(*shape) + _by_hand(1, 3))
    assert (work.calls, work.texts) == (2, shape[0] + 1)
    assert (work.operations["int8"] > 0) == (precision == "int8")
    assert 0 < work.product_seconds < work.call_seconds
    assert work.other_seconds


def test_weights_are_counted_without_the_rows_that_are_looked_up(tmp_path: Path) -> None:
    """Nobody reads thirty thousand embeddings for a text of ten words."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["words", "ids"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])],
        "toy",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        [
            numpy_helper.from_array(np.zeros((1000, 4), dtype=np.float32), "words"),
            numpy_helper.from_array(np.zeros((4, 2), dtype=np.float32), "w"),
        ],
    )
    onnx.save(helper.make_model(graph), tmp_path / "toy.onnx")

    assert count_weight_bytes(tmp_path / "toy.onnx") == 4 * 2 * 4


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "expected"),
    [
        ("MatMul", [[2, 5, 8], [8, 3]], [[2, 5, 3]], 2 * 2 * 5 * 3 * 8),
        ("MultiHeadAttention", [[2, 5, 8]] * 3, [[2, 5, 8]], 2 * 2 * (2 * 5 * 5 * 8)),
        ("Attention", [[2, 5, 8], [8, 24], [24]], [[2, 5, 8]], 2 * 2 * 5 * 8 * 24 + 2 * 2 * (2 * 5 * 5 * 8)),
    ],
)
def test_operations_of_one_operator_by_hand(
    operator: str, inputs: list[list[int]], outputs: list[list[int]], expected: float
) -> None:
    """The fused operators hide several products behind one name."""
    facts: dict[str, Any] = {
        "input_type_shape": [{"float": shape} for shape in inputs],
        "output_type_shape": [{"float": shape} for shape in outputs],
    }

    assert product_operations(operator, facts) == expected


def test_only_kernels_are_added_up() -> None:
    """A profile has events around the kernels as well, which would count every second twice."""
    shapes = {"input_type_shape": [{"float": [1, 8]}], "output_type_shape": [{"float": [1, 3]}]}
    events = [
        {"name": "model_run", "dur": 90.0, "args": {}},
        {"name": "m_kernel_time", "dur": 50.0, "args": {"op_name": "MatMul", **shapes}},
        {"name": "m_fence_before", "dur": 50.0, "args": {"op_name": "MatMul"}},
        {"name": "s_kernel_time", "dur": 10.0, "args": {"op_name": "Softmax"}},
        {"name": "t_kernel_time", "dur": 20.0, "args": {"op_name": "Tanh"}},
        {"name": "u_kernel_time", "dur": 5.0, "args": {"op_name": "Softmax"}},
    ]

    work = work_of(events, weight_bytes=1, texts=1, calls=1)

    assert work.product_seconds == pytest.approx(50e-6)
    assert work.other_seconds == pytest.approx({"Tanh": 20e-6, "Softmax": 15e-6})
    assert list(work.other_seconds) == ["Tanh", "Softmax"]
    assert work.call_seconds == pytest.approx(90e-6)
    assert work.operations == {"fp32": 48.0, "int8": 0.0}


def _work(**changed: Any) -> Work:
    facts: dict[str, Any] = {
        "operations": {"fp32": 200.0, "int8": 800.0},
        "weight_bytes": 900,
        "texts": 8,
        "calls": 4,
        "product_seconds": 8.0,
        "other_seconds": {"Softmax": 1.5, "Tanh": 0.5},
        "call_seconds": 12.5,
    }
    return Work(**facts | changed)


def _limit(work: Work, together: Peaks = PEAKS, needed: Work | None = None) -> Any:
    return hold_against_peaks(
        work, needed or work, step="lanes", precision="int8", texts_per_second=0.5, peaks=(together, PEAKS)
    )


def test_the_limit_is_what_products_alone_would_take() -> None:
    """200 at 100 and 800 at 400 a second are four seconds for eight texts: two a second."""
    limit = _limit(_work())

    assert limit.bound == "arithmetic"
    assert limit.limit_texts_per_second == pytest.approx(2.0)
    assert limit.share == pytest.approx(0.25)
    assert limit.operations_per_text == 125.0


def test_padding_is_no_work_that_had_to_be_done() -> None:
    """A limit that counts padding is reached by padding more."""
    padded = _work(operations={"fp32": 400.0, "int8": 1600.0})

    limit = _limit(padded, needed=_work())

    assert limit.padding == pytest.approx(0.5)
    assert limit.operations_per_text == 125.0
    assert limit.limit_texts_per_second == pytest.approx(2.0)
    assert limit.product_rate == pytest.approx(8 / 8)


def test_where_the_time_goes_adds_up() -> None:
    """Shares of different wholes would explain more than there is."""
    limit = _limit(_work())

    assert limit.product_share == pytest.approx(8 / 12.5)
    assert limit.product_rate == pytest.approx(4 / 8)
    assert limit.others == pytest.approx({"Softmax": 1.5 / 12.5, "Tanh": 0.5 / 12.5})
    assert limit.between == pytest.approx(2.5 / 12.5)
    assert limit.product_share + sum(limit.others.values()) + limit.between == pytest.approx(1.0)


def test_weights_bound_a_graph_only_where_they_leave_the_cache() -> None:
    """A small model's weights stay in the cache: a limit by memory would be passed, and believed by nobody."""
    large = _limit(_work(weight_bytes=1001))

    assert large.bound == "memory"
    assert large.limit_texts_per_second == pytest.approx(8 / (4 * 1001 / 50))
    assert _limit(_work(weight_bytes=1000)).bound == "arithmetic"


def test_peaks_of_all_threads_make_the_limit_and_those_of_one_the_rate() -> None:
    """The profile is of one thread; held against two it would always look half idle."""
    limit = _limit(_work(), together=Peaks(threads=2, fp32=200.0, int8=800.0, read_bytes=50.0, cache_bytes=1000))

    assert limit.limit_texts_per_second == pytest.approx(4.0)
    assert limit.product_rate == pytest.approx(4 / 8)


def test_peaks_of_this_machine_are_plausible() -> None:
    """A peak measured on a graph that was folded away would be infinite."""
    peaks = measure_peaks(1, size=256, read_bytes=2**22)

    assert 1e8 < peaks.fp32 < 1e13
    assert 1e8 < peaks.int8 < 1e14
    assert 1e8 < peaks.read_bytes < 1e13


@pytest.mark.parametrize(("written", "expected"), [("32768K", 32 * 2**20), ("8M", 8 * 2**20), ("512", 512)])
def test_the_last_cache_counts(tmp_path: Path, written: str, expected: int) -> None:
    """The first level's size instead of the last one's, and every model seems bound by memory."""
    for index, size in (("index0", "32K"), ("index3", written)):
        (tmp_path / f"sys/devices/system/cpu/cpu0/cache/{index}").mkdir(parents=True)
        (tmp_path / f"sys/devices/system/cpu/cpu0/cache/{index}/size").write_text(f"{size}\n")

    assert last_cache_bytes(tmp_path) == expected
    assert last_cache_bytes(tmp_path / "nowhere") is None


def test_the_toy_bert_has_no_token_types(encoder: TextEncoder) -> None:
    """The second count above reckons with two inputs."""
    assert set(encoder.inputs.names) == set(_batch(1, 1))
