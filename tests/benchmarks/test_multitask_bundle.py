"""The benchmark of many tasks in one bundle: its arithmetic by hand, and the whole script on a toy."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import multitask_bundle
from benchmarks.multitask_bundle import GOAL, main, markdown, time_in_turns
from benchmarks.multitask_students import SIZES, Shape, bundle_of, make_students, split_student
from benchmarks.serving_memory import serving_bytes

TEXTS = [(f"money {'late ' * number}card",) for number in range(8)]


@pytest.fixture(scope="module")
def made(toy_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Students of one, three and eight tasks on a tiny BERT, and bundles of their own for the three."""
    folder = tmp_path_factory.mktemp("students")
    shape = Shape(str(toy_checkpoint), 2, is_pretrained=True)
    students = make_students(shape, folder)
    return students, split_student(students[3], shape.base, folder / "singles")


def test_arms_take_turns_and_the_first_round_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a slow first call that is held against one arm, and an arm that always follows the same other."""
    ticks = itertools.count()
    order: list[str] = []
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    seconds = time_in_turns({name: partial(order.append, name) for name in ("a", "b", "c")}, 2)
    assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [1.0, 1.0]}
    assert "".join(order) == "abcbcacab"


def test_all_arms_ask_the_same_first_head_of_the_same_encoder(made: Any) -> None:
    """Catches graphs that differ in more than the number of heads: the ratio would be no cost of heads."""
    students, _ = made
    graphs = {size: student.graph("fp32") for size, student in students.items()}
    rows = {size: graph.run(graph.encoder.encode(TEXTS), ["intent0"]) for size, graph in graphs.items()}
    assert {size: len(graph.tasks) for size, graph in graphs.items()} == {size: size for size in SIZES}
    for logits in rows.values():
        assert logits["intent0"] == pytest.approx(rows[1]["intent0"], abs=1e-5)


def test_single_bundles_answer_what_the_one_answers(made: Any) -> None:
    """Catches a comparison of bundles that do not do the same work."""
    students, singles = made
    graphs = [student.graph("fp32") for student in (students[3], *singles)]
    together, *apart = [graph.run(graph.encoder.encode(TEXTS)) for graph in graphs]
    assert [list(found) for found in apart] == [[task] for task in together]
    for found in apart:
        for task, logits in found.items():
            assert logits == pytest.approx(together[task], abs=1e-5)


def test_the_memory_of_a_server_is_read_after_it_answered(made: Any) -> None:
    """Catches a server that never started, whose memory would be nothing."""
    _, singles = made
    assert serving_bytes([bundle_of(singles[0], TEXTS)], "int8", TEXTS, 3) > 20e6


@pytest.mark.slow
def test_a_quick_run_leaves_figures_and_a_page(
    toy_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a script that breaks when it writes what it measured."""
    monkeypatch.setattr(multitask_bundle, "serving_bytes", lambda bundles, *_rest: 1_000_000 * len(bundles))
    output, docs = tmp_path / "multitask.json", tmp_path / "page.md"
    docs.write_text("# Several tasks\n\n<!-- multitask-bundle:begin -->\n<!-- multitask-bundle:end -->\nend\n")
    main(["--quick", "--model", str(toy_checkpoint), "--layers", "2", "--output", str(output), "--docs", str(docs)])
    result = json.loads(output.read_text())
    cases = {(row["model"], row["precision"], row["batch_size"], row["tasks"]) for row in result["heads"]}
    assert cases == set(itertools.product(("bert", "roberta"), ("fp32", "int8"), (1, 8), (3, 8)))
    assert all(row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"] for row in result["heads"])
    assert {(row["precision"], row["batch_size"]) for row in result["bundles"]} == set(
        itertools.product(("fp32", "int8"), (1, 8))
    )
    for precision in ("fp32", "int8"):
        assert 0.25 < result["bytes"][precision]["one"] / result["bytes"][precision]["each"] < 0.6
        assert result["memory"][precision] == {"one": 1_000_000, "each": 3_000_000}
    assert markdown(result).strip() in docs.read_text()
    assert docs.read_text().endswith("-->\nend\n")
    assert "Measured on" in capsys.readouterr().out


@pytest.mark.parametrize(("high", "verdict"), [(GOAL - 0.001, ": within the limit of 5%"), (1.2, ": not within")])
def test_the_dearest_case_decides(high: float, verdict: str) -> None:
    """Catches a verdict from the mean case, or from the value without its interval."""
    row = {"model": "bert", "precision": "int8", "batch_size": 1, "tasks": 3, "call_ms": 1.0, "alone_ms": 1.0}
    rows = [
        row | {"ratio": {"value": 1.0, "low": 0.9, "high": 1.01}},
        row | {"tasks": 8, "ratio": {"value": 1.04, "low": 1.0, "high": high}},
    ]
    host = {"cpu_model": "CPU", "available_cpus": 2}
    sizes = {precision: {"one": 1, "each": 3} for precision in ("fp32", "int8")}
    settings = {"layers": 3, "texts": 8, "rounds": 3}
    text = markdown(
        {
            "settings": settings,
            "host": host,
            "torch": "2",
            "heads": rows,
            "bundles": [],
            "bytes": sizes,
            "memory": sizes,
        }
    )
    assert verdict in text
    assert "8 tasks" in text
