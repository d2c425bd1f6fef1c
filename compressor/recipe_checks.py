"""What the sections of a recipe say together and cannot mean: found when the recipe is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.distillation.augmentation.knobs import RefillKnobs, SourceKnobs
from compressor.distillation.presets import check_early_stopping, knobs_of, label_of, methods_at, needs_teacher

if TYPE_CHECKING:
    from compressor.recipe import Recipe


def check_sections(recipe: Recipe) -> None:
    """ValueError when sections of a recipe contradict one another."""
    _check_student_tasks(recipe)
    for task in recipe.tasks:
        _check_teacher_of(recipe, task)
    if not recipe.taught_tasks:
        _check_without_teachers(recipe)
    if recipe.student.model is None and not isinstance(recipe.teacher.model, str):
        raise ValueError("student.model is missing: the teacher has no single checkpoint to take layers from; set it")
    if recipe.student.init == "teacher" and not _has_one_teacher_to_copy(recipe):
        raise ValueError(
            "student.init 'teacher' copies one teacher's layers: it needs one teacher model for all of its tasks "
            "(one task, or teacher.multitask) and no student.model; use init: pretrained"
        )
    check_early_stopping(recipe.method, recipe.training.early_stopping)
    for name in methods_at(recipe.method, "texts"):
        _check_added_texts(recipe, name)
    for task in recipe.taught_tasks:
        _check_source_of_group(recipe, recipe.teacher_group(task))


def _check_student_tasks(recipe: Recipe) -> None:
    named = recipe.student.tasks or []
    unknown = [task for task in named if task not in recipe.tasks]
    if unknown:
        raise ValueError(f"student.tasks names '{unknown[0]}'. Choose from: {', '.join(recipe.tasks)}")
    if len(set(named)) < len(named):
        raise ValueError(f"student.tasks names a task twice: {', '.join(named)}. Name each once")


def _check_teacher_of(recipe: Recipe, task: str) -> None:
    own = recipe.own_teacher(task)
    if own is not None and own.multitask:
        raise ValueError(
            f"tasks.{task}.teacher has multitask, but is the teacher of one task. Set teacher.multitask for the tasks "
            "that have no teacher of their own"
        )
    if not recipe.has_teacher(task):
        if recipe.tasks[task].unlabelled is not None:
            raise ValueError(
                f"task '{task}' has unlabelled texts and teacher: none, but only a teacher can answer them. Leave "
                "unlabelled out, or give the task a teacher"
            )
        return
    teacher = recipe.teacher_of(task)
    if teacher.model is None and teacher.predictions is None:
        raise ValueError(f"the teacher of task '{task}' has neither 'model' nor 'predictions'; give one")


def _check_without_teachers(recipe: Recipe) -> None:
    """What a student none of whose tasks has a teacher cannot have."""
    if needs_teacher(recipe.method):
        raise ValueError(
            f"method '{label_of(recipe.method)}' learns from a teacher, but no task of the student has one (teacher: "
            "none). Give one task a teacher, or train by method: none"
        )
    if recipe.gates.teacher_metric_drop is not None:
        raise ValueError(
            f"gates.teacher_metric_drop is {recipe.gates.teacher_metric_drop}, but no task has a teacher to compare. "
            "Leave it out"
        )


def _check_source_of_group(recipe: Recipe, tasks: tuple[str, ...]) -> None:
    """A teacher of several tasks that begins with sources needs one of each: else it would begin with own labels."""
    without = [task for task in tasks if recipe.tasks[task].source is None]
    if recipe.teacher_of(tasks[0]).source == "first" and 0 < len(without) < len(tasks):
        raise ValueError(
            f"task '{without[0]}' shares its teacher (teacher.multitask) with tasks that name a source, and names none."
            " Give it one, give the tasks teachers of their own, or set teacher.source to together or none"
        )


def _check_added_texts(recipe: Recipe, name: str) -> None:
    """What a method that adds texts needs of its tasks."""
    knobs = knobs_of(recipe.method, name)
    for task in knobs.tasks or ():
        if task not in recipe.student_tasks:
            raise ValueError(f"{name}.tasks names '{task}'. Choose from: {', '.join(recipe.student_tasks)}")
    tasks = recipe.augmented_tasks(knobs) or recipe.student_tasks
    without_source = [task for task in tasks if recipe.tasks[task].source is None]
    if isinstance(knobs, SourceKnobs) and without_source:
        raise ValueError(
            f"method 'source' reads the source of task '{without_source[0]}', which names none. Set "
            f"tasks.{without_source[0]}.source.data, or use refill, which needs none"
        )
    is_own_alone = len(without_source) == len(tasks) or (
        isinstance(knobs, RefillKnobs) and (knobs.start == "target" or knobs.source_share == 0.0)
    )
    if isinstance(knobs, RefillKnobs) and is_own_alone and knobs.rounds * knobs.rate == 0:
        raise ValueError(
            f"{name} has no source text and masks nothing (rounds {knobs.rounds}, rate {knobs.rate:g}): there would be "
            "no new text. Set tasks.TASK.source.data, or rounds and rate above 0"
        )
    if not needs_teacher(recipe.method):
        return
    for task in tasks:
        if not recipe.has_teacher(task):
            raise ValueError(f"{name} gives task '{task}' texts that a teacher answers, but it has teacher: none")
        if recipe.teacher_of(task).predictions is not None:
            raise ValueError(
                f"{name} gives task '{task}' texts that its teacher has to answer, but teacher.predictions are stored "
                "for known texts only. Give teacher.model"
            )


def _has_one_teacher_to_copy(recipe: Recipe) -> bool:
    tasks = recipe.student_tasks
    if recipe.student.model or recipe.taught_tasks != tasks or recipe.teacher_group(tasks[0]) != tasks:
        return False
    teacher = recipe.teacher_of(tasks[0])
    return teacher.predictions is None and teacher.num_members == 1
