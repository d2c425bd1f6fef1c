"""The latency stage on toy models, and its GPU paths with stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from compressor.pipeline import timing
from compressor.pipeline.stages import read_json
from compressor.pipeline.timed_models import computing_with, load_timed, pick_texts
from compressor.pipeline.timing import MEASUREMENTS_FILE, measure_latency, read_circumstances, read_latency
from compressor.recipe import BenchmarkSettings
from export.benchmark import synchronised
from export.runners import Inputs, Logits
from serving.manifest import read_manifest
from tests.compressor.pipeline.timing.conftest import Finished

SETTINGS = BenchmarkSettings(batch_sizes=[1, 4], threads=[1], texts=8, rounds=6)


@pytest.fixture(scope="module")
def latency(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The written stage."""
    folder = tmp_path_factory.mktemp("latency")
    measure_latency(
        folder,
        finished.bundle,
        student=finished.student,
        teachers={"topic": finished.teacher},
        data=finished.data,
        settings=SETTINGS,
    )
    return folder


def test_every_model_is_timed_at_every_batch_size(latency: Path) -> None:
    """A row that is missing from the report is a comparison that nobody can make."""
    rows = read_latency(latency)

    assert [(row["variant"], row["precision"], row["batch_size"]) for row in rows] == [
        (variant, precision, size)
        for size in (1, 4)
        for variant, precision in (("teacher", "fp32"), ("student", "fp32"), ("bundle", "fp32"), ("bundle", "int8"))
    ]
    assert "round_seconds" not in rows[0]


def test_torch_rows_name_their_attention_and_artifacts_where_they_ran(latency: Path) -> None:
    """A teacher in eager attention is not torch at its best, and nobody could tell."""
    rows = read_latency(latency)

    assert {row["attention"] for row in rows if row["runtime"] == "torch"} <= {"sdpa", "eager"}
    assert all(set(row["nodes"]) == {"CPUExecutionProvider"} for row in rows if row["variant"] == "bundle")


def test_all_three_parts_of_a_call_are_timed(latency: Path) -> None:
    """Answers that are never computed cost nothing."""
    for row in read_latency(latency):
        assert row["total_ms"] == pytest.approx(row["tokenise_ms"] + row["run_ms"] + row["answer_ms"])
        assert min(row["tokenise_ms"], row["run_ms"], row["answer_ms"]) > 0


def test_ratios_are_over_the_teacher_at_the_same_point(latency: Path) -> None:
    """A student at batch 8 over a teacher at batch 1 is a speed-up of batching."""
    rows = read_json(latency / MEASUREMENTS_FILE)["measurements"]
    teachers = {row["batch_size"]: row for row in rows if row["variant"] == "teacher"}

    assert all(row["speed_up"] is None for row in teachers.values())
    for row in rows:
        if row["variant"] == "bundle":
            assert row["speed_up"]["over"] == "teacher"
            assert row["speed_up"]["rounds"] == 6
            ratios = np.array(teachers[row["batch_size"]]["round_seconds"]) / np.array(row["round_seconds"])
            assert row["speed_up"]["value"] == pytest.approx(np.median(ratios))


def test_the_circumstances_are_written(latency: Path) -> None:
    """Figures without the load they were taken under."""
    found = read_circumstances(latency)

    assert found["conditions"]["cpus"] >= 1
    assert found["drift"]["rounds"] == 6
    assert isinstance(found["notes"], list)


def test_without_a_teacher_the_student_is_the_baseline(finished: Finished, tmp_path: Path) -> None:
    """Stored predictions have no speed."""
    settings = SETTINGS.model_copy(update={"batch_sizes": [1], "rounds": 3})
    measure_latency(
        tmp_path, finished.bundle, student=finished.student, teachers={}, data=finished.data, settings=settings
    )

    found = {(row["variant"], row["precision"]): row["speed_up"] for row in read_latency(tmp_path)}
    assert found["student", "fp32"] is None
    assert found["bundle", "int8"]["over"] == "student"
    assert found["bundle", "int8"]["verdict"] == "too few rounds"
    assert (tmp_path / MEASUREMENTS_FILE).is_file()


def test_a_multi_task_teacher_counts_once(finished: Finished, tmp_path: Path) -> None:
    """One teacher of three tasks answers them in one pass; timed three times it would make the student's fortune."""
    by_name = timing._by_tokenizer({"a": finished.teacher, "b": finished.teacher, "c": finished.student})

    assert by_name == {"teacher": [finished.teacher, finished.student]}


def test_attention_and_threads_are_set_for_a_turn_only(finished: Finished) -> None:
    """An implementation that stays set changes every later variant of the same model."""
    timed = load_timed(finished.teacher, read_manifest(finished.bundle).inputs)
    config = timed.model.encoder.config
    before, threads = config._attn_implementation, torch.get_num_threads()

    for name in ("eager", "sdpa"):
        with computing_with([timed], name, threads + 1)():
            assert (config._attn_implementation, torch.get_num_threads()) == (name, threads + 1)
    assert (config._attn_implementation, torch.get_num_threads()) == (before, threads)


def test_both_attentions_answer_alike(finished: Finished) -> None:
    """The faster one is taken for its speed: it must be the same model."""
    timed = load_timed(finished.teacher, read_manifest(finished.bundle).inputs)
    batch = timed.encoder.batch(timed.encoder.encode(pick_texts(finished.data, 5)))
    answers = []
    for name in ("eager", "sdpa"):
        with computing_with([timed], name, 1)():
            answers.append(timed.run(batch)["topic"])

    assert abs(answers[0] - answers[1]).max() < 1e-5


def test_the_gpu_is_waited_for_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that returns before the GPU has finished is timed at the cost of asking."""
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))

    def run(inputs: Inputs) -> Logits:
        order.append("run")
        return {}

    synchronised(run)({})

    assert order == ["wait", "run", "wait"]


class FakeGpuBundle:
    """Stands for `Bundle` on a machine with a GPU: int8 products fall back to the CPU."""

    loaded: ClassVar[list[tuple[str, str]]] = []

    @classmethod
    def load(cls, folder: Path, precision: str, **options: Any) -> Any:
        """The bundle on the CPU, under the device's name."""
        from serving.bundle import Bundle

        cls.loaded.append((precision, options["device"]))
        return Bundle.load(folder, precision, threads=options["threads"], device="cpu", check=False)


@pytest.mark.parametrize("is_allowed", [False, True])
def test_a_graph_that_a_gpu_would_compute_on_the_cpu_is_left_out_and_named(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, is_allowed: bool
) -> None:
    """The CPU's time under the GPU's name, with two copies on top."""
    monkeypatch.setattr(timing, "Bundle", FakeGpuBundle)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(
        timing,
        "placement_of",
        lambda session: {
            "CUDAExecutionProvider": {"Gather": 3},
            "CPUExecutionProvider": {"MatMulInteger": 6, "Shape": 1},
        },
    )
    left_out: list[str] = []
    settings = SETTINGS.model_copy(update={"allow_cpu_fallback": is_allowed})

    variants = list(timing._bundle_variants(finished.bundle, [1], "cuda", settings=settings, left_out=left_out))

    assert FakeGpuBundle.loaded[-1][1] == "cuda"
    if is_allowed:
        assert [dict(variant.nodes or {}) for variant in variants] == [
            {"CUDAExecutionProvider": 3, "CPUExecutionProvider": 7}
        ] * 2
        assert left_out == []
    else:
        assert variants == []
        assert len(left_out) == 2
        assert "MatMulInteger (6)" in left_out[1]
