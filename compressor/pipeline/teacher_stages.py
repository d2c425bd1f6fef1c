"""The stages that come before a student: data, teachers, targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from compressor.data.fingerprint import data_fingerprint
from compressor.data.splits import TaskData
from compressor.models.resolve import checkpoint_fingerprint
from compressor.models.teacher import predictions_fingerprint
from compressor.pipeline import learning
from compressor.pipeline.several_runs import member_seed
from compressor.pipeline.stages import Stage, StageStore
from compressor.recipe import Recipe, TaskSettings, TeacherSettings, TrainingSettings

_RESULT_NEUTRAL = {"checkpoint_seconds", "report_to"}
_TEACHER_AND_SUBSET = {"teacher", "train_rows", "train_rows_seed"}


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
        tasks = self.recipe.tasks
        return Stage(
            "data",
            1,
            {name: _data_fields(task) for name, task in tasks.items()},
            lambda folder: learning.prepare_data(folder, tasks),
            label="reading and splitting the data",
        )

    @cached_property
    def teacher_members(self) -> dict[str, list[Stage]]:
        """The teachers of every task: one, or the members of an ensemble."""
        return {task: self._members(task, self.recipe.teacher_of(task)) for task in self.recipe.tasks}

    @property
    def teachers(self) -> dict[str, Stage]:
        """One teacher per task; of an ensemble the first member."""
        return {task: members[0] for task, members in self.teacher_members.items()}

    @property
    def all_teachers(self) -> list[Stage]:
        """Every teacher of every task."""
        return [stage for members in self.teacher_members.values() for stage in members]

    @property
    def untrained(self) -> list[Stage]:
        """The stages that only read what is there: they come first, so that their errors cost no training."""
        settings = {task: self.recipe.teacher_of(task) for task in self.recipe.tasks}
        taken = [task for task, teacher in settings.items() if teacher.predictions or not teacher.train]
        return [self.data, *(stage for task in taken for stage in self.teacher_members[task])]

    def _members(self, task: str, settings: TeacherSettings) -> list[Stage]:
        if settings.predictions is not None:
            return [self._stored(task, settings)]
        if not settings.train:
            return [self._adopted(task, settings, model) for model in settings.models]
        return [self._trained_teacher(task, settings, member) for member in range(settings.ensemble)]

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
            1,
            {"task": task, "model": checkpoint_fingerprint(model), "labels": settings.labels},
            lambda folder: learning.adopt_teacher(folder, self._task_data(task), one),
            {"data": self.data},
            label=f"taking the fine-tuned {_called(number, settings)} for {task}",
        )

    def _trained_teacher(self, task: str, settings: TeacherSettings, member: int) -> Stage:
        training = settings.training(self.recipe.training)
        seeds = learning.Seeds(self.recipe.seed, member_seed(self.recipe.seed, member))
        context = learning.TrainingContext(training, self.recipe.max_length, seeds)
        return Stage(
            f"teacher-{task}",
            2,
            {
                "task": task,
                "model": checkpoint_fingerprint(settings.models[0]),
                **self._training_fields(training, seeds),
            },
            lambda folder: learning.train_teacher(folder, self._task_data(task), settings, context),
            {"data": self.data},
            label=f"fine-tuning the {_called(member + 1, settings)} for {task}",
        )

    @cached_property
    def targets(self) -> dict[str, Stage]:
        """Teacher logits over the training texts, once per task."""
        return {task: self._targets(task, members) for task, members in self.teacher_members.items()}

    def _targets(self, task: str, members: Sequence[Stage]) -> Stage:
        return Stage(
            f"targets-{task}",
            1,
            {"max_length": self.recipe.max_length},
            lambda folder: learning.compute_targets(
                folder, self._task_data(task), [self.path(stage) for stage in members], self.recipe.max_length
            ),
            {"data": self.data, **by_role("teacher", members)},
            label=f"asking the teacher for its targets for {task}",
        )

    def _training_fields(self, training: TrainingSettings, seeds: learning.Seeds) -> dict[str, Any]:
        return {
            "training": training.model_dump(mode="json", exclude=_RESULT_NEUTRAL),
            "seed": seeds.initial,
            "order_seed": seeds.order,
            "max_length": self.recipe.max_length,
        }

    def _task_data(self, task: str) -> TaskData:
        return self._all_data()[task]

    def _all_data(self) -> dict[str, TaskData]:
        return learning.load_data(self.path(self.data))


def by_role(role: str, stages: Sequence[Stage]) -> dict[str, Stage]:
    """Stages as inputs of another one: `role`, `role-2`, `role-3`, ..."""
    return {role if place == 0 else f"{role}-{place + 1}": stage for place, stage in enumerate(stages)}


def _data_fields(task: TaskSettings) -> Mapping[str, Any]:
    """What the rows of a task depend on; the seed of a subset counts only where there is one."""
    fields = task.model_dump(mode="json", exclude=_TEACHER_AND_SUBSET)
    if task.train_rows is not None:
        fields |= {"train_rows": task.train_rows, "train_rows_seed": task.train_rows_seed}
    return {**fields, "content": data_fingerprint(task)}


def _called(number: int, settings: TeacherSettings) -> str:
    return "teacher" if settings.num_members == 1 else f"teacher {number} of {settings.num_members}"
