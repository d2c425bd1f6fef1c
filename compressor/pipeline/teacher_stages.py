"""The stages that come before a student: data, teachers, targets.

A task has its own teacher, shares a multi-task teacher with others, or has none and no stages here. Out-of-fold
targets take further teachers: one per part of the rows, trained on the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from compressor.data.fingerprint import data_fingerprint
from compressor.data.folds import fold_numbers, without_fold
from compressor.data.splits import TaskData
from compressor.models.resolve import checkpoint_fingerprint
from compressor.models.teacher import predictions_fingerprint
from compressor.pipeline import learning
from compressor.pipeline.several_runs import member_seed
from compressor.pipeline.stages import Stage, StageStore
from compressor.pipeline.targets import Asked, compute_targets
from compressor.recipe import Recipe, TaskSettings, TeacherSettings, TrainingSettings

_RESULT_NEUTRAL = {"checkpoint_seconds", "report_to"}
_OF_SEVERAL_TASKS = {"task_exponent"}
_TEACHER_AND_SUBSET = {"teacher", "train_rows", "train_rows_seed"}

Group = tuple[str, ...]


@dataclass(frozen=True)
class Fold:
    """The part of the rows that a teacher is trained without.

    Attributes:
        number: of the part, from 0.
        total: number of parts.
    """

    number: int
    total: int


class TeacherStages:
    """What is there before a recipe's students are trained, joined to a store; nothing here reads `order_seed`."""

    def __init__(self, recipe: Recipe, store: StageStore) -> None:
        self.recipe = recipe
        self.store = store

    def path(self, stage: Stage) -> Path:
        """Folder of a stage."""
        return self.store.path(stage)

    @cached_property
    def data(self) -> Stage:
        """Rows of every task: read, split, cleared of leaks."""
        return _data_stage(self.recipe.tasks, "reading and splitting the data")

    @cached_property
    def source_data(self) -> Stage:
        """Rows of every task as if all its labelled rows were used: sources are the same for every subset of them."""
        whole = {"train_rows": None, "unlabelled": None}
        tasks = {name: task.model_copy(update=whole) for name, task in self.recipe.tasks.items()}
        return _data_stage(tasks, "reading the sources")

    @cached_property
    def teacher_groups(self) -> dict[Group, list[Stage]]:
        """Every teacher once, one or the members of an ensemble, by the tasks that it is trained on."""
        groups = dict.fromkeys(self.recipe.teacher_group(task) for task in self.recipe.taught_tasks)
        return {tasks: self._members(tasks) for tasks in groups}

    @property
    def teacher_members(self) -> dict[str, list[Stage]]:
        """The teachers of every task that has one; tasks of a multi-task teacher have the same."""
        return {task: self.teacher_groups[self.recipe.teacher_group(task)] for task in self.recipe.taught_tasks}

    @property
    def teachers(self) -> dict[str, Stage]:
        """One teacher per task that has one; of an ensemble the first member."""
        return {task: members[0] for task, members in self.teacher_members.items()}

    @property
    def distinct_teachers(self) -> dict[str, Stage]:
        """`teachers` without repetitions: a multi-task teacher stands under the first of its tasks."""
        first: dict[str, str] = {}
        for task, stage in self.teachers.items():
            first.setdefault(stage.folder_name, task)
        return {task: self.teachers[task] for task in first.values()}

    @cached_property
    def fold_teachers(self) -> dict[Group, list[list[Stage]]]:
        """Where targets are out-of-fold, the further teachers per part of the rows, by the tasks of the group."""
        found: dict[Group, list[list[Stage]]] = {}
        for tasks in self.teacher_groups:
            settings = self.recipe.teacher_of(tasks[0])
            folds = [Fold(number, settings.folds) for number in range(settings.folds)] if settings.folds else []
            found[tasks] = [
                [self._trained_teacher(tasks, member, fold) for member in range(settings.ensemble)] for fold in folds
            ]
        return found

    @property
    def all_teachers(self) -> list[Stage]:
        """Every teacher of every task."""
        return [stage for tasks in self.teacher_groups for stage in self.every_teacher_of(tasks[0])]

    def every_teacher_of(self, task: str) -> list[Stage]:
        """The teachers of a task that has one, and after them the further ones for out-of-fold targets."""
        tasks = self.recipe.teacher_group(task)
        return [*self.teacher_groups[tasks], *(stage for members in self.fold_teachers[tasks] for stage in members)]

    @property
    def untrained(self) -> list[Stage]:
        """The stages that only read what is there: they come first, so that their errors cost no training."""
        settings = {tasks: self.recipe.teacher_of(tasks[0]) for tasks in self.teacher_groups}
        taken = [tasks for tasks, teacher in settings.items() if teacher.predictions or not teacher.train]
        return [self.data, *(stage for tasks in taken for stage in self.teacher_groups[tasks])]

    def _members(self, tasks: Group) -> list[Stage]:
        settings = self.recipe.teacher_of(tasks[0])
        if settings.predictions is not None:
            return [self._stored(tasks[0], settings)]
        if not settings.train:
            return [self._adopted(tasks[0], settings, model) for model in settings.models]
        return [self._trained_teacher(tasks, member) for member in range(settings.ensemble)]

    def _stored(self, task: str, settings: TeacherSettings) -> Stage:
        if settings.predictions is None:
            raise RuntimeError("no predictions to store")
        return Stage(
            f"teacher-{task}",
            1,
            {"task": task, "predictions": predictions_fingerprint(settings.predictions)},
            lambda folder: learning.store_predictions(folder, self._task_data(task), settings),
            {"data": self.data},
            label=f"reading the teacher's predictions for {task}",
        )

    def _adopted(self, task: str, settings: TeacherSettings, model: str) -> Stage:
        one = settings.model_copy(update={"model": model})
        number = settings.models.index(model) + 1
        return Stage(
            f"teacher-{task}",
            2,
            {"task": task, "model": checkpoint_fingerprint(model), "labels": settings.labels},
            lambda folder: learning.adopt_teacher(folder, self._task_data(task), one),
            {"data": self.data},
            label=f"taking the fine-tuned {_called(number, settings)} for {task}",
        )

    def _trained_teacher(self, tasks: Group, member: int, fold: Fold | None = None) -> Stage:
        settings = self.recipe.teacher_of(tasks[0])
        training, context = self._context(tasks, member)
        (model,) = settings.models
        before = self._source_teacher(tasks, member) if self.reading_of_source(tasks) == "first" else None
        return Stage(
            _teacher_name(tasks) + (f"-fold-{fold.number + 1}" if fold else ""),
            3,
            {
                "tasks": sorted(tasks),
                "model": checkpoint_fingerprint(model),
                **({"fold": fold.number, "folds": fold.total} if fold else {}),
                **({"source": "together"} if self.reading_of_source(tasks) == "together" else {}),
                **self._training_fields(training, context.seeds, num_tasks=len(tasks)),
            },
            lambda folder: learning.train_teacher(
                folder, self._rows_of_teacher(tasks, fold), model, context, start=self.path(before) if before else None
            ),
            {"data": self.data, **({"before": before} if before else {})},
            label=f"fine-tuning the {_called(member + 1, settings)} for {', '.join(tasks)}{_without(fold)}",
        )

    def _source_teacher(self, tasks: Group, member: int) -> Stage:
        """The teacher after the rows of the source, from which it goes on with the task's own."""
        settings = self.recipe.teacher_of(tasks[0])
        training, context = self._context(tasks, member)
        (model,) = settings.models
        return Stage(
            f"{_teacher_name(tasks)}-source",
            1,
            {
                "tasks": sorted(tasks),
                "model": checkpoint_fingerprint(model),
                **self._training_fields(training, context.seeds, num_tasks=len(tasks)),
            },
            lambda folder: learning.train_teacher(
                folder,
                learning.with_source_rows(learning.load_some(self.path(self.source_data), tasks)),
                model,
                context,
            ),
            {"data": self.source_data},
            label=f"fine-tuning the {_called(member + 1, settings)} for {', '.join(tasks)} on the rows of its source",
        )

    def reading_of_source(self, tasks: Group) -> str:
        """What the teacher of some tasks does with the rows of their source: `none` where there are none."""
        has_source = any(self.recipe.tasks[task].source for task in tasks)
        return self.recipe.teacher_of(tasks[0]).source if has_source else "none"

    def _context(self, tasks: Group, member: int) -> tuple[TrainingSettings, learning.TrainingContext]:
        training = self.recipe.teacher_of(tasks[0]).training(self.recipe.training)
        seeds = learning.Seeds(self.recipe.seed, member_seed(self.recipe.seed, member))
        return training, learning.TrainingContext(training, self.recipe.max_length, seeds)

    def _rows_of_teacher(self, tasks: Group, fold: Fold | None) -> dict[str, TaskData]:
        data = learning.load_some(self.path(self.data), tasks)
        if fold is not None:
            numbers = fold_numbers(data, fold.total)
            data = {task: without_fold(rows, numbers[task], fold.number) for task, rows in data.items()}
        together = self.reading_of_source(tasks) == "together"
        return learning.with_source_rows(data, beside_own=True) if together else data

    @cached_property
    def targets(self) -> dict[str, Stage]:
        """Teacher logits over the training texts, once per task that has a teacher."""
        return {task: self._targets(task) for task in self.recipe.taught_tasks}

    def _targets(self, task: str) -> Stage:
        tasks = self.recipe.teacher_group(task)
        members, folds = self.teacher_groups[tasks], self.fold_teachers[tasks]
        inputs = {"data": self.data, **by_role("teacher", members)}
        for number, stages in enumerate(folds, start=1):
            inputs |= by_role(f"fold-{number}", stages)
        return Stage(
            f"targets-{task}",
            1,
            {"max_length": self.recipe.max_length, **({"folds": len(folds)} if folds else {})},
            lambda folder: compute_targets(folder, self._task_data(task), self._asked(task), self.recipe.max_length),
            inputs,
            label=f"asking the teacher for its targets for {task}",
        )

    def _asked(self, task: str) -> Asked:
        tasks = self.recipe.teacher_group(task)
        folds = [[self.path(stage) for stage in members] for members in self.fold_teachers[tasks]]
        numbers = fold_numbers(learning.load_some(self.path(self.data), tasks), len(folds))[task] if folds else None
        return Asked([self.path(stage) for stage in self.teacher_groups[tasks]], folds, numbers)

    def _training_fields(self, training: TrainingSettings, seeds: learning.Seeds, *, num_tasks: int) -> dict[str, Any]:
        unread = _RESULT_NEUTRAL if num_tasks > 1 else _RESULT_NEUTRAL | _OF_SEVERAL_TASKS
        return {
            "training": training.model_dump(mode="json", exclude=unread),
            "seed": seeds.initial,
            "order_seed": seeds.order,
            "max_length": self.recipe.max_length,
        }

    def _task_data(self, task: str) -> TaskData:
        return learning.load_some(self.path(self.data), [task])[task]

    def _all_data(self) -> dict[str, TaskData]:
        """The rows of every task that the student answers."""
        return learning.load_some(self.path(self.data), self.recipe.student_tasks)


def _teacher_name(tasks: Group) -> str:
    return f"teacher-{tasks[0] if len(tasks) == 1 else 'multitask'}"


def by_role(role: str, stages: Sequence[Stage]) -> dict[str, Stage]:
    """Stages as inputs of another one: `role`, `role-2`, `role-3`, ..."""
    return {role if place == 0 else f"{role}-{place + 1}": stage for place, stage in enumerate(stages)}


def cost_of_folds(stages: Iterable[Stage], store: StageStore) -> str | None:
    """A line on the trainings that out-of-fold targets add to some stages; None where there is none left to do."""
    waiting = {stage.folder_name for stage in stages if "fold" in stage.fields and not store.is_done(stage)}
    if not waiting:
        return None
    return f"out-of-fold targets (teacher.folds) take {len(waiting)} further teachers, each about as long as one alone"


def _data_stage(tasks: Mapping[str, TaskSettings], label: str) -> Stage:
    return Stage(
        "data",
        1,
        {name: _data_fields(task) for name, task in tasks.items()},
        lambda folder: learning.prepare_data(folder, tasks),
        label=label,
    )


def _data_fields(task: TaskSettings) -> Mapping[str, Any]:
    """What the rows of a task depend on; the seed of a subset counts only where there is one."""
    fields = task.model_dump(mode="json", exclude=_TEACHER_AND_SUBSET)
    if task.train_rows is not None:
        fields |= {"train_rows": task.train_rows, "train_rows_seed": task.train_rows_seed}
    return {**fields, "content": data_fingerprint(task)}


def _called(number: int, settings: TeacherSettings) -> str:
    return "teacher" if settings.num_members == 1 else f"teacher {number} of {settings.num_members}"


def _without(fold: Fold | None) -> str:
    return f", without part {fold.number + 1} of {fold.total}" if fold else ""
