"""Which stages a recipe has, and which of them two recipes share: nothing is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressor.pipeline.graph import Pipeline
from compressor.pipeline.several_runs import member_methods, member_seed
from compressor.pipeline.stages import Stage, StageStore, needed_for
from compressor.recipe import Recipe
from serving.errors import UserError

MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def make(toy_file: Path, checkpoint: Callable[..., Path], tmp_path: Path) -> MakePipeline:
    """A pipeline of the toy recipe with some keys of its first level replaced."""
    model = str(checkpoint())

    def make(teacher: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **changes: Any) -> Pipeline:
        task = {"data": str(toy_file), "text": "text", "label": "topic", **(train or {})}
        values = {"name": "toy", "tasks": {"topic": task}, "teacher": {"model": model, **(teacher or {})}, **changes}
        return Pipeline(Recipe.model_validate(values), StageStore(tmp_path / "stages"))

    return make


def needed(pipeline: Pipeline) -> list[str]:
    """Names of the stages behind the student's figures."""
    return [stage.name for stage in needed_for(pipeline.figures["student"])]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("none", ["data", "student-none", "figures-student-none"]),
        (["swa", "sda"], ["data", "student-sda+swa", "figures-student-sda+swa"]),
        ("kd", ["data", "teacher-topic", "targets-topic", "student-kd", "figures-student-kd"]),
        ({"vote": {"runs": 2}}, ["data", "student-none", "student-none", "figures-student-vote_runs=2"]),
        ({"avg": {}}, ["data", *["student-none"] * 3, "student-avg", "figures-student-avg"]),
    ],
)
def test_a_students_figures_need_its_own_stages_only(make: MakePipeline, method: object, expected: list[str]) -> None:
    """Catches a teacher that is trained for a student who never hears it."""
    assert needed(make(method=method)) == expected


def test_the_order_seed_moves_the_students_and_nothing_else(make: MakePipeline) -> None:
    """Catches a teacher per data order: every comparison over seeds would train it again, and be about it as well."""
    zero, other = make(), make(order_seed=5)
    for stage, twin in ((zero.data, other.data), (zero.targets["topic"], other.targets["topic"])):
        assert stage.folder_name == twin.folder_name
    assert zero.figures["teacher-topic"].key == other.figures["teacher-topic"].key
    assert zero.student.key != other.student.key
    assert zero.controls["none"].key != other.controls["none"].key
    assert make(order_seed=0).student.key == zero.student.key  # the default is the seed
    assert make(seed=1).student.key != make(seed=1, order_seed=0).student.key != zero.student.key


def test_runs_share_their_first_member_with_the_plain_method(make: MakePipeline) -> None:
    """Catches trainings done twice, and members that all have the same data order."""
    plain, avg, vote = make(method="kd"), make(method=["kd", "avg"]), make(method=["kd", {"vote": {"runs": 5}}])
    assert avg.members[0].folder_name == plain.student.folder_name
    assert [stage.key for stage in vote.members[:3]] == [stage.key for stage in avg.members]
    assert len({stage.key for stage in vote.members}) == 5
    assert {stage.fields["seed"] for stage in vote.members} == {0}  # the same initial heads
    assert len({stage.fields["order_seed"] for stage in vote.members}) == 5
    assert make(method=["kd", "avg"], order_seed=3).members[0].key == make(method="kd", order_seed=3).student.key
    mixed = make(method=["sda", {"avg": {"runs": 2}}, "swa"])
    assert [stage.name for stage in mixed.members] == ["student-sda+swa"] * 2


def test_member_seeds_are_stable_and_apart() -> None:
    """Catches seeds that change between versions (a resumed average would retrain) or meet those of other cells."""
    assert [member_seed(0, member) for member in range(3)] == [0, 3964924996, 3141116543]
    seeds = {member_seed(seed, member) for seed in range(50) for member in range(10)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert member_methods({"avg": {}}) == {"none": {}}


def test_knobs_at_their_default_are_the_same_method(make: MakePipeline) -> None:
    """Catches a student that is trained again because a recipe spells out a default."""
    assert make(method={"kd": {"temperature": 2.0}}).student.key == make(method="kd").student.key
    assert make(method=["none", "swa"]).student.key == make(method="swa").student.key
    assert make(method={"kd": {"temperature": 3.0}}).student.key != make(method="kd").student.key


def test_the_kd_control_has_the_methods_own_knobs(make: MakePipeline) -> None:
    """Catches a gain of swa that is one of another temperature."""
    pipeline = make(method=[{"kd": {"alpha": 0.5}}, "swa"])
    assert pipeline.controls["kd"].fields["methods"]["kd"]["alpha"] == 0.5
    assert list(make(method="none").controls) == []
    assert list(make(method={"kd": {"alpha": 0.5}}).controls) == ["none"]


def test_an_ensemble_begins_with_the_single_teacher(make: MakePipeline) -> None:
    """Catches members with one data order, and a single teacher trained again for an ensemble."""
    single, ensemble = make(), make(teacher={"ensemble": 3})
    members = ensemble.teacher_members["topic"]
    assert members[0].folder_name == single.teachers["topic"].folder_name
    assert len({stage.key for stage in members}) == 3
    assert {stage.fields["seed"] for stage in members} == {0}
    assert ensemble.targets["topic"].key != single.targets["topic"].key
    assert {stage.key for stage in needed_for(ensemble.targets["topic"])} >= {stage.key for stage in members}
    assert ensemble.all_teachers == members


def test_a_subset_seed_counts_only_where_rows_are_drawn(make: MakePipeline) -> None:
    """Catches data, teacher and all cells made again for a seed that changes nothing."""

    def data(**train: int) -> Stage:
        return make(train=train).data

    assert data(train_rows_seed=4).key == data().key
    assert data(train_rows=30).key != data().key
    assert data(train_rows=30, train_rows_seed=4).key != data(train_rows=30).key


def test_a_vote_has_figures_but_no_student(make: MakePipeline) -> None:
    """Catches a vote that is exported as one of its members."""
    pipeline = make(method="vote")
    assert pipeline.figures["student"].name == "figures-student-vote"
    with pytest.raises(UserError, match=r"compressor compare.*teacher\.ensemble"):
        pipeline.final_stages  # noqa: B018
