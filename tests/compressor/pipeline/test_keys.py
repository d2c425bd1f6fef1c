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
THREE = ("topic", "urgency", "flags")


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


def test_the_exponent_counts_only_where_several_tasks_are_trained(
    make: MakePipeline, toy_file: Path, checkpoint: Callable[..., Path]
) -> None:
    """Catches a new exponent that trains single-task teachers again, and one that leaves an old student standing."""
    small, large = {"task_exponent": 0.0}, {"task_exponent": 1.0}
    assert make(training=small).student.key == make(training=large).student.key
    tasks = {name: {"data": str(toy_file), "text": "text", "label": name} for name in ("topic", "urgency")}
    first, second = (make(tasks=tasks, training=training) for training in (small, large))
    assert first.student.key != second.student.key
    assert first.controls["none"].key != second.controls["none"].key
    assert [stage.key for stage in first.all_teachers] == [stage.key for stage in second.all_teachers]


@pytest.mark.parametrize("field", [{"layer_decay": 0.9}, {"head_learning_rate": 1e-3}])
def test_rates_of_layers_train_everything_again(make: MakePipeline, field: dict[str, float]) -> None:
    """Catches a student of other rates that is taken for the one that is there."""
    before, after = make(), make(training=field)
    assert before.student.key != after.student.key
    assert before.all_teachers[0].key != after.all_teachers[0].key


@pytest.fixture
def make_three(toy_file: Path, checkpoint: Callable[..., Path], tmp_path: Path) -> MakePipeline:
    """A pipeline over three tasks, with some of a task's settings and of the recipe's first level replaced."""
    model = str(checkpoint())

    def make(teacher: dict[str, Any] | None = None, own: dict[str, Any] | None = None, **changes: Any) -> Pipeline:
        tasks = {
            name: {"data": str(toy_file), "text": "text", "label": name, **(own or {}).get(name, {})} for name in THREE
        }
        values = {"name": "toy", "tasks": tasks, "teacher": {"model": model, **(teacher or {})}, **changes}
        return Pipeline(Recipe.model_validate(values), StageStore(tmp_path / "stages"))

    return make


@pytest.mark.parametrize("method", ["kd", "bam"])
def test_a_student_reads_targets_of_the_tasks_that_have_a_teacher(make_three: MakePipeline, method: str) -> None:
    """Catches a teacher trained for a task that has none, and a student that misses one of the others' targets."""
    pipeline = make_three(own={"urgency": {"teacher": "none"}}, method=method)
    assert [role for role in pipeline.student.inputs if role != "data"] == ["targets-topic", "targets-flags"]
    assert [name for name in needed(pipeline) if name.startswith("teacher")] == ["teacher-topic", "teacher-flags"]
    assert list(pipeline.teachers) == ["topic", "flags"]
    assert [role for role in pipeline.figures if role.startswith("teacher")] == ["teacher-topic", "teacher-flags"]
    assert pipeline.student.fields["tasks"] == sorted(THREE)
    assert list(pipeline.controls) == (["none"] if method == "kd" else ["none", "kd"])
    for control in pipeline.controls.values():
        for field in ("tasks", "training", "seed", "order_seed", "layers", "init"):
            assert control.fields[field] == pipeline.student.fields[field]


def test_without_any_teacher_there_is_no_teacher_stage_and_no_kd_control(make_three: MakePipeline) -> None:
    """Catches a control that asks for a teacher which the recipe says there is none of."""
    none = {name: {"teacher": "none"} for name in THREE}
    pipeline = make_three(own=none, method="swa")
    assert list(pipeline.controls) == ["none"]
    assert pipeline.all_teachers == []
    assert pipeline.untrained == [pipeline.data]
    assert not [stage for stage in pipeline.in_order() if stage.name.startswith(("teacher", "targets"))]
    assert not [role for role in pipeline.benchmark.inputs if role.startswith("teacher")]


def test_a_multi_task_teacher_is_trained_and_timed_once(make_three: MakePipeline) -> None:
    """Catches one training per task of the same teacher, and a latency that counts it three times."""
    pipeline = make_three({"multitask": True, "ensemble": 2})
    trained = [name for name in needed(pipeline) if name.startswith("teacher")]
    assert trained == ["teacher-multitask"] * 2
    assert list(pipeline.teacher_groups) == [THREE]
    assert pipeline.all_teachers == pipeline.teacher_members["flags"] == pipeline.teacher_members["topic"]
    assert [role for role in pipeline.benchmark.inputs if role.startswith("teacher")] == ["teacher-topic"]
    assert len({stage.key for stage in pipeline.targets.values()}) == 3
    assert len({pipeline.figures[f"teacher-{task}"].key for task in THREE}) == 3


def test_a_multi_task_teacher_of_one_task_is_that_tasks_teacher(make: MakePipeline) -> None:
    """Catches a teacher that is trained again because the recipe was restricted to one task."""
    assert make(teacher={"multitask": True}).teachers["topic"].key == make().teachers["topic"].key


def test_the_task_exponent_counts_only_where_several_tasks_are_trained(make_three: MakePipeline) -> None:
    """Catches single-task teachers trained again for each ablation of the sampling, and students that are not."""
    plain, flat = make_three(), make_three(training={"task_exponent": 0.0})
    assert plain.student.key != flat.student.key
    assert plain.controls["none"].key != flat.controls["none"].key
    assert [stage.key for stage in plain.all_teachers] == [stage.key for stage in flat.all_teachers]
    shared = [make_three({"multitask": True}, training={"task_exponent": share}).all_teachers for share in (0.75, 0.0)]
    assert shared[0][0].key != shared[1][0].key
    for field in ("layer_decay", "head_learning_rate"):
        changed = make_three(training={field: 0.5})
        assert changed.student.key != plain.student.key
        assert changed.teachers["topic"].key != plain.teachers["topic"].key


def test_a_fold_has_a_teacher_per_member_that_the_targets_depend_on(make_three: MakePipeline) -> None:
    """Catches targets that are not made again when folds change, and a fold's teacher taken for another fold's."""
    pipeline = make_three({"folds": 3, "ensemble": 2})
    roles = list(pipeline.targets["topic"].inputs)
    assert roles == ["data", "teacher", "teacher-2", *(f"fold-{k}{n}" for k in (1, 2, 3) for n in ("", "-2"))]
    folds = pipeline.fold_teachers[("topic",)]
    assert len({stage.key for members in folds for stage in members}) == 6
    assert len(pipeline.all_teachers) == len({stage.key for stage in pipeline.all_teachers}) == 3 * 8
    four = make_three({"folds": 4, "ensemble": 2})
    assert four.fold_teachers[("topic",)][0][0].key != folds[0][0].key
    assert four.targets["topic"].key != pipeline.targets["topic"].key
    assert make_three().fold_teachers[("topic",)] == []


def test_a_student_of_one_task_shares_data_and_teacher_with_the_student_of_all(make_three: MakePipeline) -> None:
    """Catches other test rows for a single student than for the shared one: no difference could be paired."""
    every, one = make_three(), make_three(student={"tasks": ["urgency"]})
    assert one.data.key == every.data.key
    assert list(one.teachers) == ["urgency"]
    assert one.targets["urgency"].key == every.targets["urgency"].key
    assert one.student.key != every.student.key
    assert one.student.fields["tasks"] == ["urgency"]
    assert "task_exponent" not in one.student.fields["training"]
    joint = make_three({"multitask": True}, student={"tasks": ["urgency"]})
    assert joint.teacher_groups.keys() == {THREE}  # its teacher has learned all three


def test_a_candidate_depends_on_what_its_quantisation_reads_and_on_nothing_else(make: MakePipeline) -> None:
    """Catches a layer left in fp32 for a limit that holds no more, and graphs made again for a field nobody reads."""

    def key(**export: Any) -> str:
        gates = export.pop("gates", {})
        return make(export=export, gates=gates).candidate.key

    static = ["fp32", "int8_static"]
    assert key(exclude="none") != key() != key(exclude=["pooler"])
    assert key(gates={"quantisation_metric_drop": 0.02}) != key()
    assert key(gates={"allow_inconclusive": True}) != key()
    assert key(exclude="none", gates={"quantisation_metric_drop": 0.02}) == key(exclude="none")
    assert key(gates={"export_logit_difference": 0.02}) == key()
    assert key(calibration_texts=7) != key()
    assert key(ranges="minmax") == key()
    assert key(ranges="minmax", precisions=static) != key(precisions=static)
    assert key(precisions=["fp32"], calibration_texts=7) == key(precisions=["fp32"])


def test_a_run_of_fp32_alone_has_nothing_to_explain(make: MakePipeline) -> None:
    """Catches a stage that looks at layers that nobody quantised."""
    names = [stage.name for stage in make().in_order()]
    assert names.index("candidate") < names.index("quantisation")
    assert "quantisation" not in [stage.name for stage in make(export={"precisions": ["fp32"]}).in_order()]
