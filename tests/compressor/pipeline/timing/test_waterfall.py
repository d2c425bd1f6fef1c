"""The waterfall stage on toy models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from compressor.pipeline import waterfall
from compressor.pipeline.timed_models import load_timed
from compressor.pipeline.waterfall import FEWEST_TEXTS, read_waterfall, run_waterfall, served
from export.limits import Peaks
from serving.manifest import read_manifest
from tests.compressor.pipeline.timing.conftest import Finished

PEAKS = Peaks(threads=1, fp32=1e11, int8=2e11, read_bytes=1e10, cache_bytes=2**25)


@pytest.fixture(scope="module")
def written(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The stage with two CPUs, whatever this machine has; peaks are not measured here."""
    folder = tmp_path_factory.mktemp("waterfall")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waterfall, "available_cpus", lambda: 2)
        patch.setattr(waterfall, "measure_peaks", lambda threads: replace(PEAKS, threads=threads))
        run_waterfall(
            folder,
            finished.bundle,
            student=finished.student,
            teachers=[finished.teacher],
            data=finished.data,
            seconds=0.001,
        )
    return read_waterfall(folder)


def test_the_steps_come_in_their_order_with_their_subject(written: dict[str, Any]) -> None:
    """The accuracy of another model beside a step's speed."""
    assert [(step["name"], step["subject"]) for step in written["steps"]] == [
        ("padded", "teacher"),
        ("torch", "teacher"),
        ("student", "student"),
        ("fp32", "fp32"),
        ("int8", "int8"),
        ("lanes", "int8"),
    ]


def test_torch_gets_every_chance(written: dict[str, Any]) -> None:
    """Torch at its worst batch size makes any student look good."""
    ways = {f"{attention}, batch {size}" for attention in ("sdpa", "eager") for size in (1, 8, 32)}

    assert set(written["steps"][1]["tried"]) == set(written["steps"][2]["tried"]) == ways
    assert written["steps"][0]["way"] == "eager, batch 8, 24 tokens"


def test_an_artifact_whose_answers_depend_on_the_batch_runs_alone(written: dict[str, Any]) -> None:
    """Its accuracy was measured one text per call; its speed in batches would be another artifact's."""
    tried = {step["name"]: set(step["tried"]) for step in written["steps"]}

    assert tried["fp32"] == {"batch 1", "batch 8", "batch 32"}
    assert tried["int8"] == {"batch 1"}
    assert tried["lanes"] == {"2 lanes, batch 1"}


def test_the_budget_decides_how_many_texts_are_answered(written: dict[str, Any]) -> None:
    """A large teacher would hold a run up for an hour."""
    assert FEWEST_TEXTS <= written["texts"] <= 2 * FEWEST_TEXTS
    assert written["mean_tokens"] < written["max_length"] == 24


def test_every_step_of_an_artifact_has_its_limit(written: dict[str, Any]) -> None:
    """A limit under the wrong step explains the wrong figure."""
    limits = {limit["step"]: limit for limit in written["limits"]}
    steps = {step["name"]: step for step in written["steps"]}

    assert list(limits) == ["fp32", "int8", "lanes"]
    for name, limit in limits.items():
        assert limit["texts_per_second"] == steps[name]["texts_per_second"]
        assert limit["share"] == pytest.approx(limit["texts_per_second"] / limit["limit_texts_per_second"])
    assert limits["lanes"]["operations_per_text"] == limits["int8"]["operations_per_text"]
    assert [peaks["threads"] for peaks in written["peaks"]] == [2, 1]


def test_the_default_artifact_is_what_is_served(finished: Finished) -> None:
    """A precision that failed its gates is no step to anywhere."""
    manifest = read_manifest(finished.bundle)

    assert [artifact.precision for artifact in served(manifest)] == ["fp32", "int8"]
    for default in ("fp32", None):
        assert [artifact.precision for artifact in served(replace(manifest, default_artifact=default))] == ["fp32"]


def test_one_cpu_has_no_lanes(finished: Finished) -> None:
    """One lane is the step before it under another name."""
    inputs = read_manifest(finished.bundle).inputs
    found = waterfall.Contestants(
        [load_timed(finished.teacher, inputs)],
        load_timed(finished.student, inputs),
        finished.bundle,
    )
    texts: Sequence[tuple[str, ...]] = [("the card",)] * 20

    assert [step.name for step in waterfall._steps(found, texts, 1)][-1] == "int8"
