"""Several runs of one method, trained on toys: what a vote says, what an average is checked for, what resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax

from compressor.data.splits import TaskData
from compressor.distillation.presets import PRESETS
from compressor.evaluation.figures import FIGURES_FILE, read_logits
from compressor.models.checkpoint import load_checkpoint
from compressor.models.task_model import num_parameters
from compressor.pipeline.checks import check_with_data
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.joining import average_students, check_can_be_averaged, check_fits_data
from compressor.pipeline.learning import load_data
from compressor.pipeline.stages import Stage, StageStore, needed_for, run_stages
from compressor.recipe import Recipe
from serving.errors import UserError

TRAINING = {"epochs": 1, "batch_size": 64, "dtype": "fp32", "threads": 1}
LABELS = {"topic": "classification", "urgency": "regression", "flags": "multilabel"}


@pytest.fixture
def recipe(toy_file: Path, checkpoint: Callable[..., Path]) -> Callable[..., Recipe]:
    """The toy recipe with three tasks, or with one, and some keys of its first level replaced."""
    model = str(checkpoint())

    def make(labels: tuple[str, ...] = ("topic",), **changes: Any) -> Recipe:
        tasks = {label: {"data": str(toy_file), "text": "text", "label": label} for label in labels}
        values = {"name": "toy", "tasks": tasks, "teacher": {"model": model}, "student": {"layers": 1}}
        return Recipe.model_validate({**values, "training": TRAINING, "max_length": 32, **changes})

    return make


def run(recipe: Recipe, store: Path) -> Pipeline:
    """Train and evaluate the recipe's students."""
    pipeline = Pipeline(recipe, StageStore(store))
    run_stages(pipeline.store, needed_for(pipeline.figures["student"]))
    return pipeline


def test_a_vote_over_every_task_type_is_the_mean_of_its_members(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Catches a vote that joins one task type by another's rule, or that evaluates one member."""
    vote = run(recipe(tuple(LABELS), method={"vote": {"runs": 2}}), tmp_path)
    folder = vote.path(vote.figures["student"])
    each = [
        run(recipe(tuple(LABELS), method="none", order_seed=stage.fields["order_seed"]), tmp_path)
        for stage in vote.members
    ]
    answers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "topic": lambda logits: softmax(logits, axis=1),
        "urgency": lambda logits: logits,
        "flags": expit,
    }
    for task, answer in answers.items():
        for split in ("validation", "test"):
            members = [answer(read_logits(one.path(one.figures["student"]), task, split)) for one in each]
            assert not np.allclose(members[0], members[1])
            np.testing.assert_allclose(
                answer(read_logits(folder, task, split)), np.mean(members, axis=0), atol=1e-6, err_msg=task
            )
    figures = json.loads((folder / FIGURES_FILE).read_text())
    single = json.loads((each[0].path(each[0].figures["student"]) / FIGURES_FILE).read_text())
    assert figures.keys() == single.keys()
    assert figures["tasks"].keys() == LABELS.keys()
    assert figures["parameters"] == 2 * single["parameters"]
    assert (figures["members"], single["members"], figures["layers"]) == (2, 1, 1)
    assert len(list(tmp_path.glob("student-none-*"))) == 2  # the members are the plain method's own trainings


def test_an_interrupted_average_trains_no_finished_member_again(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches hours of finished runs repeated, and a mean that depends on where the run was stopped."""
    wanted = recipe(method={"avg": {"runs": 2}})
    whole = run(wanted, tmp_path / "whole")
    built: list[str] = []
    build = StageStore._build

    def stopping(store: StageStore, stage: Stage) -> None:
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append(stage.folder_name)
        build(store, stage)

    def telling(store: StageStore, stage: Stage) -> None:
        built.append(stage.folder_name)
        build(store, stage)

    monkeypatch.setattr(StageStore, "_build", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(wanted, tmp_path / "cut")
    monkeypatch.setattr(StageStore, "_build", telling)
    again = run(wanted, tmp_path / "cut")
    assert sorted(built) == sorted(stage.folder_name for stage in needed_for(again.figures["student"]))
    weights = [p.path(p.student) / "model.safetensors" for p in (whole, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.fixture
def two(recipe: Callable[..., Recipe], tmp_path: Path) -> list[Path]:
    """Two finished students of one recipe and different data orders."""
    pipelines = [run(recipe(method="none", order_seed=seed), tmp_path / "store") for seed in (0, 1)]
    return [pipeline.path(pipeline.student) for pipeline in pipelines]


def edited(folder: Path, name: str, **changes: Any) -> Path:
    """A copy of a student with some values of one JSON file changed; None takes a value out."""
    copy = folder.with_name(f"{folder.name}-edited")
    shutil.copytree(folder, copy)
    values = json.loads((copy / name).read_text())
    values = {key: value for key, value in {**values, **changes}.items() if value is not None}
    (copy / name).write_text(json.dumps(values))
    return copy


def test_students_that_cannot_be_averaged_are_named_with_the_reason(
    two: list[Path], recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Catches a mean of weights that do not belong together: it loads, runs and answers nonsense."""
    check_can_be_averaged(two)
    with pytest.raises(UserError, match="different initial weights"):
        check_can_be_averaged([two[0], edited(two[1], "history.json", initial_weights="other")])
    unknown = edited(two[0], "history.json", initial_weights=None)
    with pytest.raises(UserError, match="does not record the initial weights"):
        check_can_be_averaged([two[1], unknown])
    wider = run(recipe(method="none", student={"layers": 2}), tmp_path / "store")
    with pytest.raises(UserError, match="different architectures"):
        check_can_be_averaged([two[0], wider.path(wider.student)])
    other_task = run(recipe(("flags",), method="none"), tmp_path / "store")
    with pytest.raises(UserError, match="different tasks or labels"):
        check_can_be_averaged([two[0], other_task.path(other_task.student)])
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        check_can_be_averaged([two[0], tmp_path])
    with pytest.raises(UserError, match=r"names '.*nowhere', but there is no such folder"):
        check_can_be_averaged([two[0], tmp_path / "nowhere"])
    (tmp_path / "student").symlink_to(two[1])
    with pytest.raises(UserError, match=r"names the run '.*'\. Give the student in it: '.*/student'"):
        check_can_be_averaged([two[0], tmp_path])
    data = load_data(wider.path(wider.data))
    check_fits_data(two, data)
    with pytest.raises(UserError, match="does not answer the tasks of this recipe"):
        check_fits_data([other_task.path(other_task.student)], data)


def test_an_average_is_a_student_that_can_be_averaged_again(two: list[Path], tmp_path: Path) -> None:
    """Catches a mean that has lost its tokenizer, its tasks, or where it started from."""
    mean = tmp_path / "mean"
    average_students(mean, two)
    assert load_checkpoint(mean).tasks == load_checkpoint(two[0]).tasks
    history = json.loads((mean / "history.json").read_text())
    assert [run["order_seed"] for run in history["runs"]] == [0, 1]
    assert history["steps"] == sum(run["steps"] for run in history["runs"]) > 0
    assert "curve" in history["runs"][1]
    check_can_be_averaged([mean, two[0]])
    assert num_parameters(load_checkpoint(mean)) == num_parameters(load_checkpoint(two[0]))


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.place in ("targets", "weights")])
def test_every_method_is_checked_against_the_real_number_of_steps(
    name: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Catches a check with a wrong count of steps: 151 training rows in batches of 64 are 3 steps, not 151."""
    pipeline = Pipeline(recipe(), StageStore(tmp_path))
    run_stages(pipeline.store, [pipeline.data])
    data = load_data(pipeline.path(pipeline.data))
    check_with_data(recipe(method=name), data)
    room: dict[str, dict[str, int]] = {"sda": {"k": 3}, "sdv": {"k": 3}, "swa": {"every": 2}}
    if name in room:
        (knob, largest), *_ = room[name].items()
        check_with_data(recipe(method={name: {knob: largest}}), data)
        with pytest.raises(UserError, match=f"{name}.{knob}"):
            check_with_data(recipe(method={name: {knob: largest + 1}}), data)


def test_texts_without_label_count_as_steps_where_a_teacher_is_read(
    recipe: Callable[..., Recipe], toy_data: TaskData
) -> None:
    """Catches a method refused, or let through, by a count of steps that the training does not have."""
    training = {**TRAINING, "batch_size": 12}  # 96 labelled rows are 8 steps, with the 12 others 9
    data = {"topic": toy_data}
    check_with_data(recipe(method=["kd", {"sda": {"k": 9}}], training=training), data)
    with pytest.raises(UserError, match="has only 8 optimizer steps"):
        check_with_data(recipe(method={"sda": {"k": 9}}, training=training), data)
