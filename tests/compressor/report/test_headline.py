"""The sentence that most readers will read alone."""

from __future__ import annotations

import re
from typing import Any

import pytest

from compressor.report.headline import headline


def test_headline_says_size_speed_loss_and_trust(report: dict[str, Any]) -> None:
    """A number without its baseline or interval would be quoted as if it stood for itself."""
    assert headline(report) == (
        "The int8 student is 5.2 times smaller than its teacher (17.6 MB instead of 90.9 MB), "
        "answers 3.7 times faster than the unpadded torch teacher (1.9 ms instead of 7.1 ms; batch 1, one "
        "CPU thread) and reaches accuracy 0.677 [0.642, 0.710] against the teacher's 0.746 [0.715, 0.776] "
        "on the test texts; both of its gates passed."
    )


def test_headline_never_speaks_of_a_gain(report: dict[str, Any]) -> None:
    """A run has one seed; whatever the control scores, one seed supports no claim about the method."""
    report["controls"]["none"]["tasks"]["intent"]["value"] = 0.1
    assert not re.search(r"\bgain", headline(report))
    assert "control" not in headline(report)


def test_a_failed_gate_warns_by_name(several_tasks: dict[str, Any]) -> None:
    """A reader of the first sentence only must not ship a bundle that failed."""
    said = headline(several_tasks)
    assert "faster than the 3 teachers in turn, unpadded, in torch" in said
    assert "do not rely on it: 1 of its 4 gates failed (quantisation_metric_drop on urgency)" in said
    assert "1 of its 4 gates could not be decided with so few texts (quantisation_metric_drop on topics)" in said
    assert "passed" not in said


@pytest.mark.parametrize(("place", "artifact"), [(0, "fp32"), (1, "student"), (1, None)])
def test_a_failed_origin_condemns_what_was_made_from_it(
    report: dict[str, Any], place: int, artifact: str | None
) -> None:
    """int8 is held to fp32 and fp32 to torch: when either fails, int8's own gate proves nothing."""
    report["gates"][place] |= {"verdict": "failed", "artifact": artifact}
    assert "do not rely on it" in headline(report)


def test_a_gate_of_another_artifact_does_not_condemn_the_default(report: dict[str, Any]) -> None:
    """With fp32 served because int8 failed, the sentence is about fp32, and says what int8 did."""
    report["gates"][1]["verdict"] = "failed"
    for artifact in report["artifacts"]:
        artifact["is_default"] = artifact["precision"] == "fp32"
    said = headline(report)
    assert said.startswith("The fp32 student is 1.3 times smaller")
    assert "its one gate passed" in said
    assert "int8 did not pass" in said


@pytest.mark.parametrize(
    ("p50", "size", "expected"),
    [
        (14.2, 181_764_208, ["2.0 times larger than", "2.0 times slower than"]),
        (7.2, 90_882_000, ["about as large as", "about as fast as"]),
    ],
)
def test_a_worse_or_equal_student_is_called_so(
    report: dict[str, Any], p50: float, size: int, expected: list[str]
) -> None:
    """`0.5 times smaller` reads as a success."""
    report["measurements"][3]["p50_ms"] = p50
    report["artifacts"][1]["bytes"] = size
    said = headline(report)
    assert all(words in said for words in expected)
    assert "smaller" not in said
    assert "faster" not in said


def test_stored_predictions_give_no_teacher_to_be_faster_than(report: dict[str, Any]) -> None:
    """Without a timed teacher the speed-up is against the torch student, and the sentence must say so."""
    report["teacher"] |= {"kind": "predictions", "bytes": None, "parameters": None, "tasks": {"intent": None}}
    report["measurements"] = [m for m in report["measurements"] if m["variant"] != "teacher"]
    said = headline(report)
    assert "takes 17.6 MB" in said
    assert "2.1 times faster than the same student in torch" in said
    assert "teacher" not in said


def test_nothing_measured_still_makes_a_sentence() -> None:
    """A report of a run that stopped early must not crash the page."""
    assert headline({}) == "The student was not measured; no gate was checked."
