"""What sections of a recipe say together: tasks without teacher, multi-task teachers, folds, a student's tasks."""

from __future__ import annotations

import pytest

from compressor.recipe import Recipe
from compressor.recipe_file import dump_recipe, example_recipe, parse_recipe
from serving.errors import UserError

THREE = """name: run
tasks:
  intent: {data: supportdesk, label: intent}
  mood: {data: supportdesk, label: sentiment, teacher: none}
  rush: {data: supportdesk, label: urgency, teacher: {model: other, epochs: 2}}
"""
ALONE = "name: run\ntasks: {intent: {data: supportdesk, label: intent, teacher: none}}\n"


def test_a_task_may_have_its_own_teacher_the_recipes_or_none() -> None:
    """Catches 'none' taken for the name of a checkpoint, or for 'the recipe's teacher'."""
    recipe = parse_recipe(THREE)
    assert recipe.taught_tasks == ("intent", "rush")
    assert [recipe.has_teacher(task) for task in recipe.tasks] == [True, False, True]
    assert recipe.teacher_of("intent") is recipe.teacher
    assert recipe.teacher_of("rush").model == "other"
    assert recipe.own_teacher("mood") is recipe.own_teacher("intent") is None
    with pytest.raises(RuntimeError, match="has_teacher"):
        recipe.teacher_of("mood")


def test_a_recipe_with_a_task_without_teacher_reads_back_the_same() -> None:
    """Catches a run folder whose recipe.yaml gives the task a teacher after all."""
    for text in (THREE, THREE + "teacher: {multitask: true, folds: 3}\nstudent: {tasks: [rush, mood]}"):
        recipe = parse_recipe(text)
        again = parse_recipe(dump_recipe(recipe))
        assert again == recipe
        assert again.own_teacher("rush").training(again.training).epochs == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("", {"intent": ("intent",), "rush": ("rush",)}),
        ("teacher: {multitask: true}", {"intent": ("intent",), "rush": ("rush",)}),
        ("teacher: {multitask: true}\ntasks.rush: null", {"intent": ("intent", "rush"), "rush": ("intent", "rush")}),
    ],
)
def test_a_multi_task_teacher_is_trained_on_the_tasks_that_use_the_recipes(
    text: str, tasks: dict[str, tuple[str, ...]]
) -> None:
    """Catches a teacher that also learns a task which has its own teacher or none."""
    overrides = ["tasks.rush.teacher=null"] if "tasks.rush" in text else []
    recipe = parse_recipe(THREE + text.partition("tasks.rush")[0], overrides)
    assert {task: recipe.teacher_group(task) for task in recipe.taught_tasks} == tasks


def test_the_students_tasks_keep_the_recipes_order() -> None:
    """Catches heads in another order than the data's, and a teacher asked of a task that nobody learns."""
    recipe = parse_recipe(THREE + "student: {tasks: [rush, intent]}")
    assert recipe.student_tasks == ("intent", "rush")
    assert parse_recipe(THREE + "student: {tasks: [mood, rush]}").taught_tasks == ("rush",)
    assert parse_recipe(THREE).student_tasks == ("intent", "mood", "rush")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ALONE, "method 'kd' learns from a teacher, but no task"),
        (THREE + "student: {tasks: [mood]}", "method 'kd' learns from a teacher, but no task"),
        (ALONE + "method: none\ngates: {teacher_metric_drop: 0.1}", "gates.teacher_metric_drop is 0.1"),
        (ALONE + "method: none\nstudent: {init: teacher}", "one teacher model for all of its tasks"),
        (THREE + "student: {init: teacher}", "one teacher model for all of its tasks"),
        (THREE.replace("teacher: none", "teacher: none, unlabelled: log.jsonl"), "only a teacher can answer them"),
        (THREE.replace("teacher: none", "teacher: nobody"), "tasks.mood.teacher: Input should be 'none'"),
        (THREE.replace("epochs: 2", "epoch: 2"), "no key 'tasks.rush.teacher.epoch'"),
        (THREE.replace("epochs: 2", "epoch: 2"), "Did you mean epochs?"),
        (THREE.replace("epochs: 2", "multitask: true"), "tasks.rush.teacher has multitask"),
        (THREE + "teacher: {multitask: true, train: false}", "multitask is set, but train: false trains no teacher"),
        (THREE + "teacher: {multitask: true, predictions: p.csv}", "teacher.predictions trains no teacher"),
        (THREE + "teacher: {folds: 2, train: false}", "folds is set, but train: false trains no teacher"),
        (THREE + "teacher: {folds: 2, predictions: p.csv}", "folds is set, but teacher.predictions trains no"),
        (THREE + "teacher: {folds: 1}", "teacher.folds"),
        (THREE + "student: {tasks: [mod]}", "student.tasks names 'mod'. Choose from: intent, mood, rush"),
        (THREE + "student: {tasks: [mood, mood]}", "names a task twice"),
        (THREE + "student: {tasks: []}", "student.tasks"),
    ],
)
def test_what_cannot_be_is_named_before_anything_is_read(text: str, said: str) -> None:
    """Catches wrong use that is found after a teacher was trained, or not at all."""
    with pytest.raises(UserError) as caught:
        parse_recipe(text)
    assert said in str(caught.value)


def test_a_student_without_any_teacher_can_be_trained_on_labels() -> None:
    """Catches a refusal of what is the control `none` with nothing beside it."""
    assert parse_recipe(ALONE + "method: swa").taught_tasks == ()


@pytest.mark.parametrize(
    ("text", "is_possible"),
    [
        ("teacher: {multitask: true}", True),
        ("teacher: {multitask: true, ensemble: 2}", False),
        ("teacher: {multitask: true}\nstudent_tasks", False),
        ("", False),
    ],
)
def test_a_student_of_several_tasks_may_begin_as_their_multi_task_teacher(text: str, is_possible: bool) -> None:
    """Catches layers copied from the teacher of one task into the student of all."""
    two = "name: run\ntasks: {a: {data: x.csv}, b: {data: x.csv}}\n"
    student = "student: {init: teacher, tasks: [a]}" if "student_tasks" in text else "student: {init: teacher}"
    recipe = two + text.partition("\nstudent_tasks")[0] + "\n" + student
    if is_possible:
        assert parse_recipe(recipe).student.init == "teacher"
    else:
        with pytest.raises(UserError, match="one teacher model for all of its tasks"):
            parse_recipe(recipe)


def test_the_schema_and_the_example_know_the_literal() -> None:
    """Catches an editor that marks `teacher: none` as wrong, and an example that hides it."""
    shown = str(Recipe.model_json_schema()["$defs"]["TaskSettings"]["properties"]["teacher"])
    assert "none" in shown
    assert "TeacherSettings" in shown
    assert "the task has no teacher" in example_recipe()
