"""Arms from the command line and from a file, and the controls that always stand beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.comparison.arms import Arm, arms_from_file, arms_from_text, pairs, with_controls
from serving.errors import UserError

ONE, TWO = ["intent"], ["intent", "domain"]


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
    assert [arm.label for arm in with_controls(arms_from_text("swa"), ONE)] == ["none", "swa"]
    assert [arm.label for arm in with_controls(arms_from_text("kd+swa,none"), ONE)] == ["none", "kd", "kd+swa"]
    said = capsys.readouterr().err
    assert said.count("added the control 'none'") == said.count("added the control 'kd'") == 1


def test_a_control_with_other_knobs_is_no_control() -> None:
    """Prevents 'the difference to kd' from meaning a kd that nobody named so."""
    found = with_controls(arms_from_text("kd:temperature=4"), ONE)
    assert [arm.label for arm in found] == ["none", "kd", "kd(temperature=4)"]
    assert [arm.is_control for arm in found] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("kd,kd", "stands twice"), ("none", "nothing to compare"), ("avg:of=[a,b]", "the same for every seed")],
)
def test_arms_that_cannot_be_compared_are_refused(text: str, expected: str) -> None:
    """Prevents a table that repeats an arm, has none, or has a spread of zero by construction."""
    with pytest.raises(UserError, match=expected):
        with_controls(arms_from_text(text), ONE)


def test_folder_names_are_safe_and_distinct() -> None:
    """Prevents a label that leaves its folder or shares it with another."""
    assert Arm("../sda (k=all)", {"sda": {}}).folder_name == "sda_k=all"
    with pytest.raises(UserError, match="share a folder"):
        with_controls([Arm("a b", {"swa": {}}), Arm("a/b", {"swa": {}})], ONE)


def test_a_student_per_task_is_written_behind_the_method(tmp_path: Path) -> None:
    """Prevents a single-task arm that is trained as the multi-task one, and shares its name."""
    none, kd, mixed = arms_from_text("none@single,kd:alpha=0.5@single,kd+swa@single")
    assert [arm.label for arm in (none, kd, mixed)] == ["none@single", "kd(alpha=0.5)@single", "kd+swa@single"]
    assert all(arm.is_single for arm in (none, kd, mixed))
    assert (kd.method, kd.folder_name) == ({"kd": {"alpha": 0.5}}, "kd_alpha=0.5_@single")
    path = tmp_path / "arms.yaml"
    path.write_text("long: {method: kd@single, set: {training.epochs: 3}}\nplain: kd\n")
    long, plain = arms_from_file(path)
    assert (long.label, long.is_single, plain.is_single) == ("long", True, False)
    for wrong in ("kd@multi", "kd@", "@single"):
        with pytest.raises(UserError, match=r"arm '"):
            arms_from_text(wrong)


@pytest.mark.parametrize(
    ("methods", "tasks", "labels"),
    [
        ("bam", TWO, ["none", "none@single", "kd", "bam"]),
        ("bam", ONE, ["none", "kd", "bam"]),
        ("bam+swa,kd@single", TWO, ["none", "none@single", "kd", "bam+swa", "kd@single"]),
        ("swa@single", TWO, ["none", "none@single", "swa@single"]),
        ("none@single", TWO, ["none", "none@single"]),
        ("kd,swa", TWO, ["none", "kd", "swa"]),
    ],
)
def test_single_stands_beside_a_shared_student_of_bam(
    methods: str, tasks: list[str], labels: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Prevents a gain of multi-task training that is only known against other multi-task training."""
    arms = with_controls(arms_from_text(methods), tasks)
    assert [arm.label for arm in arms] == labels
    given = methods.split(",")
    said = capsys.readouterr().err
    assert [label for label in labels if f"added the control '{label}'" in said] == [
        label for label in labels if label not in given
    ]
    assert [arm.label for arm in arms if arm.is_control] == [
        label for label in labels if label in ("none", "none@single", "kd")
    ]


def test_a_student_per_task_needs_several_tasks() -> None:
    """Prevents an arm that is the same training as another under a second name."""
    with pytest.raises(UserError, match="there is one task, 'intent'"):
        with_controls(arms_from_text("none,kd@single"), ONE)


@pytest.mark.parametrize(
    "arm", [Arm("none@single", {"none": {}}), Arm("none", {"none": {}}, {}, True), Arm("kd", {"kd": {}}, {}, True)]
)
def test_a_controls_name_means_the_control(arm: Arm) -> None:
    """Prevents 'the difference to none@single' from meaning a shared student, or the reverse."""
    with pytest.raises(UserError, match="it is the control's name"):
        with_controls([arm, *arms_from_text("swa@single")], TWO)


def test_controls_are_compared_in_one_direction() -> None:
    """Prevents a difference and its mirror image in one family, and Multi minus Single from being left out."""
    arms = with_controls(arms_from_text("bam,kd@single"), TWO)
    assert pairs(arms) == [
        ("kd", "none"), ("bam", "none"), ("kd@single", "none"),
        ("none", "none@single"), ("kd", "none@single"), ("bam", "none@single"), ("kd@single", "none@single"),
        ("bam", "kd"), ("kd@single", "kd"),
    ]  # fmt: skip
