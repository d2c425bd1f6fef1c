"""What doctor says of int8 on this CPU."""

from __future__ import annotations

import pytest

from serving import doctor
from serving.doctor import examine, saturation_problems


def test_doctor_shows_what_the_table_says_and_what_was_measured() -> None:
    """A table that is wrong about a CPU is noticed by nobody who sees the table only."""
    host = examine()["host"]
    assert {"int8_kernels", "int8_saturates_by_table", "int8_saturates_measured"} <= host.keys()
    assert isinstance(host["int8_saturates_measured"], bool)


@pytest.mark.parametrize(
    ("by_table", "measured", "is_problem"),
    [(False, True, True), (True, True, False), (False, False, False), (True, False, False), (False, None, False)],
)
def test_a_cpu_that_saturates_unexpectedly_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, by_table: bool, measured: bool | None, is_problem: bool
) -> None:
    """int8 weights would get eight bits there, and answers would change without an error."""
    monkeypatch.setattr(doctor, "saturates_int8", lambda features: by_table)
    monkeypatch.setattr(doctor, "measured_saturation", lambda: measured)
    facts = doctor.describe_int8()
    assert bool(saturation_problems(facts)) is is_problem
    assert any("verify" in problem for problem in examine()["problems"]) is is_problem
