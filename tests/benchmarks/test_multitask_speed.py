"""The speed of several tasks: like is compared with like, rounds are paired, and what is done is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import multitask_speed
from benchmarks.multitask_speed import ARMS, TASKS, main, markdown, summarise
from compressor.data.splits import TRAIN
from compressor.distillation.training import TrainingJob, train, training_steps

ROWS = [
    {"arm": "three tasks", "round": 0, "step_seconds": 1.25},
    {"arm": "one task", "round": 0, "step_seconds": 1.0},
    {"arm": "one task", "round": 1, "step_seconds": 10.0},
    {"arm": "three tasks", "round": 1, "step_seconds": 12.5},
]


def test_the_ratio_pairs_the_rounds_and_is_below_one_where_several_tasks_are_slower() -> None:
    """Catches a ratio upside down: a slower training of several tasks would pass its goal."""
    found = summarise(ROWS, 16)
    assert found["ratio"] == {name: pytest.approx(0.8) for name in ("value", "low", "high")}
    assert found["examples_per_second"]["one task"] == pytest.approx(16 / 5.5)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.9, 1.0, "reached"), (0.85, 0.95, "undecided"), (0.7, 0.89, "missed")]
)
def test_the_goal_is_reached_or_missed_by_the_whole_interval_only(low: float, high: float, verdict: str) -> None:
    """Catches a goal that is called reached by luck of the middle."""
    settings = {"layers": 3, "batch_size": 16, "threads": 1, "dtype": "fp32", "steps": 48, "rounds": 9}
    host = {"cpu_model": "A CPU", "available_cpus": 2}
    result = summarise(ROWS, 16) | {"settings": settings, "host": host, "torch": "2"}
    result["ratio"] = {"value": 0.9, "low": low, "high": high}
    assert f"(goal 0.9: {verdict};" in markdown(result)


def test_both_arms_read_as_many_examples_in_as_many_steps(
    toy_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches arms that differ in more than their tasks; the second call finds all that the first has done."""
    jobs: list[TrainingJob] = []

    def remember(job: TrainingJob, folder: Path) -> None:
        jobs.append(job)
        train(job, folder)

    monkeypatch.setattr(multitask_speed, "train", remember)
    output = tmp_path / "speed.json"
    options = ["--quick", "--model", str(toy_checkpoint), "--layers", "1", "--dtype", "fp32"]
    places = ["--output", str(output), "--docs", str(tmp_path / "results.md")]
    main([*options, *places])
    assert [tuple(job.data) for job in jobs] == [TASKS[:1], TASKS]
    assert {sum(len(part.splits[TRAIN]) for part in job.data.values()) for job in jobs} == {24}
    assert {training_steps(job.data, job.plan, job.settings) for job in jobs} == {8}
    assert [part.task.type for part in jobs[1].data.values()] == ["classification", "classification", "regression"]
    result: dict[str, Any] = json.loads(output.read_text())
    assert {row["arm"] for row in result["rows"]} == set(ARMS)
    assert all(row["step_seconds"] > 0 for row in result["rows"])
    assert "times as many examples per second" in (tmp_path / "results.md").read_text()
    main([*options, *places])
    assert len(jobs) == 2
