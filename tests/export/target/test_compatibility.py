"""What a release of ONNX Runtime reads."""

from __future__ import annotations

from itertools import pairwise

import pytest

from export.target.compatibility import READS, choose_opset, readable_by
from serving.errors import UserError


@pytest.mark.parametrize(
    ("runtime", "opset", "ir_version"),
    [("1.8.1", 14, 7), ("1.12", 17, 8), ("1.15.0", 19, 8), ("1.16.3", 19, 9), ("1.17.3", 20, 9), ("1.20.1", 21, 10)],
)
def test_releases_read_what_their_documentation_says(runtime: str, opset: int, ir_version: int) -> None:
    """Values copied by hand from https://onnxruntime.ai/docs/reference/compatibility.html."""
    found = readable_by(runtime)
    assert (found.opset, found.ir_version) == (opset, ir_version)


def test_newer_releases_never_read_less() -> None:
    """A slip in the table would refuse, or worse allow, what it should not."""
    rows = [READS[release] for release in sorted(READS)]
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(rows))


@pytest.mark.parametrize("runtime", ["1.21.0", "1.99", "2.0.1"])
def test_a_release_after_the_table_reads_what_the_newest_row_does(runtime: str) -> None:
    """1.9 is older than 1.20: text would compare the other way round."""
    assert readable_by(runtime).opset == 21
    assert readable_by("1.9.0").opset == 15


@pytest.mark.parametrize("runtime", ["1.7.2", "0.5"])
def test_a_release_before_the_table_is_refused_with_the_first_one_that_does(runtime: str) -> None:
    """It would be found out on the serving host."""
    with pytest.raises(UserError, match=r"older than 1\.8"):
        readable_by(runtime)


@pytest.mark.parametrize("runtime", ["latest", "1", "1.17.3.1", "v1.17", "1.17 ; rm", ""])
def test_what_is_no_release_is_refused(runtime: str) -> None:
    """The text goes to an installer."""
    with pytest.raises(UserError, match=r"for example 1\.17\.3"):
        readable_by(runtime)


@pytest.mark.parametrize(
    ("runtime", "opset", "chosen"),
    [(None, None, 17), (None, 19, 19), ("1.17.3", None, 17), ("1.11", None, 16), ("1.11", 15, 15), ("1.8", None, 14)],
)
def test_the_opset_is_the_default_as_far_as_the_runtime_reads_it(
    runtime: str | None, opset: int | None, chosen: int
) -> None:
    """A lower one than needed costs speed, a higher one does not load."""
    assert choose_opset(runtime, opset, default=17) == chosen


def test_an_opset_that_the_runtime_does_not_read_is_an_error_that_names_the_highest() -> None:
    """Choosing in silence between two contradicting wishes."""
    with pytest.raises(UserError, match=r"reads at most 16.*export\.opset to 16"):
        choose_opset("1.11.0", 17, default=17)
