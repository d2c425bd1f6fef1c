"""Arms from the command line and from a file, and the controls that always stand beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.comparison.arms import Arm, arms_from_file, arms_from_text, with_controls
from serving.errors import UserError


def test_methods_are_split_at_commas_outside_of_brackets() -> None:
    """Prevents a knob with a list from being read as two methods."""
    found = arms_from_text("none, kd ,sda:k=all,kd+swa:every=1")
    assert [arm.label for arm in found] == ["none", "kd", "sda(k=all)", "kd+swa(every=1)"]
    assert found[2].method == {"sda": {"k": "all"}}
    assert [arm.label for arm in arms_from_text("none,avg:of=[a,b]")] == ["none", "avg(of=[a,b])"]


def test_a_file_gives_labels_methods_and_changes(tmp_path: Path) -> None:
    """Prevents an ablation whose override is dropped: it would be its own control."""
    path = tmp_path / "arms.yaml"
    path.write_text("long: {method: kd+swa, set: {training.epochs: 3}}\nshort: sda:k=2\n")
    long, short = arms_from_file(path)
    assert (long.label, list(long.method), long.changes) == ("long", ["kd", "swa"], {"training.epochs": 3})
    assert (short.label, short.method, short.changes) == ("short", {"sda": {"k": 2}}, {})


def test_controls_are_added_first_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Prevents a method without the control that gives its figure a meaning."""
    assert [arm.label for arm in with_controls(arms_from_text("swa"))] == ["none", "swa"]
    assert [arm.label for arm in with_controls(arms_from_text("kd+swa,none"))] == ["none", "kd", "kd+swa"]
    said = capsys.readouterr().err
    assert said.count("added the control 'none'") == said.count("added the control 'kd'") == 1


def test_a_control_with_other_knobs_is_no_control() -> None:
    """Prevents 'the difference to kd' from meaning a kd that nobody named so."""
    found = with_controls(arms_from_text("kd:temperature=4"))
    assert [arm.label for arm in found] == ["none", "kd", "kd(temperature=4)"]
    assert [arm.is_control for arm in found] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("kd,kd", "stands twice"), ("none", "nothing to compare"), ("avg:of=[a,b]", "the same for every seed")],
)
def test_arms_that_cannot_be_compared_are_refused(text: str, expected: str) -> None:
    """Prevents a table that repeats an arm, has none, or has a spread of zero by construction."""
    with pytest.raises(UserError, match=expected):
        with_controls(arms_from_text(text))


def test_folder_names_are_safe_and_distinct() -> None:
    """Prevents a label that leaves its folder or shares it with another."""
    assert Arm("../sda (k=all)", {"sda": {}}).folder_name == "sda_k=all"
    with pytest.raises(UserError, match="share a folder"):
        with_controls([Arm("a b", {"swa": {}}), Arm("a/b", {"swa": {}})])
