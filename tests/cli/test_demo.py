"""The demo as a stranger runs it: real teacher, real corpus, minutes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cli.commands.demo import EXAMPLES


@pytest.mark.slow
def test_the_demo_compresses_the_built_in_teacher_and_ends_with_answers_and_a_report(
    script: Path, tmp_path: Path
) -> None:
    """Catches a demo that only works on toys: a teacher that does not learn, an int8 file of the wrong size."""
    output = tmp_path / "demo"
    done = subprocess.run([script, "demo", "--output", output], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for text in EXAMPLES:
        assert text in done.stdout
    assert f"report: {output / 'report.html'}" in done.stdout
    report = json.loads((output / "report.json").read_text())
    teacher, student = (report[role]["tasks"]["intent"]["value"] for role in ("teacher", "student"))
    assert teacher > 0.65
    assert student > 0.58
    assert report["controls"]["none"]["tasks"]["intent"]["value"] > 0.5
    sizes = {artifact["precision"]: artifact["bytes"] for artifact in report["artifacts"]}
    assert sizes["int8"] < 0.27 * sizes["fp32"]
    assert {gate["verdict"] for gate in report["gates"]} <= {"passed", "inconclusive"}
