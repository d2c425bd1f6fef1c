"""What L2A costs: every stage is counted once, and the goal is judged by their sum."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.l2a_cost import main, markdown

RESULT = {
    "labels": 200,
    "source_rows": 2000,
    "generated": 3000,
    "tokens": 47.6,
    "max_length": 48,
    "threads": 2,
    "host": {"cpu_model": "A CPU", "available_cpus": 2},
    "torch": "2",
    "seconds": {"making the texts": 100.0, "training the student": 300.4, "reading": 0.4},
}


@pytest.mark.parametrize(("together", "verdict"), [(1800.0, "30.0 minutes** (goal 30: reached)"), (1803.0, "missed")])
def test_the_goal_is_judged_by_the_sum(together: float, verdict: str) -> None:
    """Catches a goal that is reached by the steps that have a row."""
    lines = markdown(RESULT | {"together": together}).splitlines()
    assert lines[2:4] == ["| training the student | 300 |", "| making the texts | 100 |"]
    assert lines[4] == f"| everything else | {together - 400.4:.0f} |"
    assert lines[5] == f"| together | {together:.0f} |"
    assert verdict in lines[-1]


def test_every_stage_up_to_the_student_is_counted_once(two_domains: Path, masked_model: Path, tmp_path: Path) -> None:
    """Catches a stage that is left out, or one that two rows count; a second call measures nothing again."""
    given = ["--data", str(two_domains), "--work", str(tmp_path / "work"), "--results", str(tmp_path), "--quick"]
    given += ["--docs", str(tmp_path / "results.md"), "--threads", "1", "--dtype", "fp32"]
    for part in ("student", "teacher"):
        given += ["--set", f"{part}.model={masked_model}"]
    main(given)
    found = json.loads((tmp_path / "l2a_cost.json").read_text())
    assert (found["labels"], found["source_rows"], found["generated"]) == (24, 24, 360)
    assert found["together"] == pytest.approx(sum(found["seconds"].values()), rel=0.1, abs=1.0)
    assert found["masked_lm_steps"] == 1
    main(given)
    assert json.loads((tmp_path / "l2a_cost.json").read_text()) == found
