"""The stages up to the student: data, teachers, targets, student and controls."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from compressor.data.fingerprint import data_fingerprint
from compressor.data.splits import TaskData
from compressor.distillation.presets import Knobs, needs_teacher
from compressor.models.resolve import checkpoint_fingerprint
from compressor.models.teacher import predictions_fingerprint
from compressor.pipeline import learning
from compressor.pipeline.stages import Stage, StageStore
from compressor.recipe import Recipe, TeacherSettings, TrainingSettings

CONTROL_METHODS: tuple[dict[str, Knobs], ...] = ({"none": {}}, {"kd": {}})
_RESULT_NEUTRAL = {"checkpoint_seconds", "report_to"}


class LearningStages:
    """What a recipe trains, joined to a store; each stage is made when it is asked for."""

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
        fields = {
            name: {**task.model_dump(mode="json", exclude={"teacher"}), "content": data_fingerprint(task)}
            for name, task in tasks.items()
        }
        return Stage(
            "data",
            1,
            fields,
            lambda folder: learning.prepare_data(folder, tasks),
            label="reading and splitting the data",
        )

    @cached_property
    def teachers(self) -> dict[str, Stage]:
        """One teacher per task."""
        return {task: self._teacher(task, self.recipe.teacher_of(task)) for task in self.recipe.tasks}

    @property
    def untrained(self) -> list[Stage]:
        """The stages that only read what is there: they come first, so that their errors cost no training."""
        taken = [
            stage
            for task, stage in self.teachers.items()
            if self.recipe.teacher_of(task).predictions or not self.recipe.teacher_of(task).train
        ]
        return [self.data, *taken]

    def _teacher(self, task: str, settings: TeacherSettings) -> Stage:
        inputs = {"data": self.data}
        if settings.predictions is not None:
            fields: dict[str, Any] = {"task": task, "predictions": predictions_fingerprint(settings.predictions)}
            return Stage(
                f"teacher-{task}",
                1,
                fields,
                lambda folder: learning.store_predictions(folder, self._task_data(task), settings),
                inputs,
                label=f"reading the teacher's predictions for {task}",
            )
        fields = {"task": task, "model": checkpoint_fingerprint(str(settings.model))}
        if not settings.train:
            return Stage(
                f"teacher-{task}",
                1,
                {**fields, "labels": settings.labels},
                lambda folder: learning.adopt_teacher(folder, self._task_data(task), settings),
                inputs,
                label=f"taking the fine-tuned teacher for {task}",
            )
        training = settings.training(self.recipe.training)
        return Stage(
            f"teacher-{task}",
            1,
            {**fields, **self._training_fields(training)},
            lambda folder: learning.train_teacher(folder, self._task_data(task), settings, self._setting(training)),
            inputs,
            label=f"fine-tuning the teacher for {task}",
        )

    @cached_property
    def targets(self) -> dict[str, Stage]:
        """Teacher logits over the training texts, once per task."""
        return {task: self._targets(task, teacher) for task, teacher in self.teachers.items()}

    def _targets(self, task: str, teacher: Stage) -> Stage:
        return Stage(
            f"targets-{task}",
            1,
            {"max_length": self.recipe.max_length},
            lambda folder: learning.compute_targets(
                folder, self._task_data(task), self.path(teacher), self.recipe.max_length
            ),
            {"data": self.data, "teacher": teacher},
            label=f"asking the teacher for its targets for {task}",
        )

    @cached_property
    def student(self) -> Stage:
        """The student, by the recipe's method."""
        return self._student(self.recipe.method)

    @cached_property
    def controls(self) -> dict[str, Stage]:
        """The same student on labels alone and by plain kd, where the method is another."""
        others = (method for method in CONTROL_METHODS if method.keys() != self.recipe.method.keys())
        return {
            name: self._student(method)
            for method in others
            for name in method
            if name == "none" or self.recipe.method.keys() != {"none"}
        }

    def _student(self, methods: Mapping[str, Knobs]) -> Stage:
        recipe = self.recipe
        inputs = {"data": self.data}
        if needs_teacher(methods):
            inputs |= {f"targets-{task}": stage for task, stage in self.targets.items()}
        if recipe.student.init == "teacher":
            inputs["teacher"] = next(iter(self.teachers.values()))
        fields = {
            "base": checkpoint_fingerprint(recipe.student_model()),
            "layers": recipe.student.layers,
            "init": recipe.student.init,
            "methods": {name: methods[name] for name in methods},
            **self._training_fields(recipe.training),
        }
        name = "+".join(methods)
        return Stage(
            f"student-{name}",
            1,
            fields,
            lambda folder: learning.train_student(
                folder,
                self._all_data(),
                recipe,
                methods=methods,
                targets={task: self.path(stage) for task, stage in self.targets.items()}
                if needs_teacher(methods)
                else {},
                teacher=self.path(inputs["teacher"]) if "teacher" in inputs else None,
            ),
            inputs,
            label=f"training the student ({name})",
        )

    def _training_fields(self, training: TrainingSettings) -> dict[str, Any]:
        return {
            "training": training.model_dump(mode="json", exclude=_RESULT_NEUTRAL),
            "seed": self.recipe.seed,
            "max_length": self.recipe.max_length,
        }

    def _setting(self, training: TrainingSettings) -> learning.TrainingContext:
        return learning.TrainingContext(training, self.recipe.max_length, self.recipe.seed)

    def _task_data(self, task: str) -> TaskData:
        return self._all_data()[task]

    def _all_data(self) -> dict[str, TaskData]:
        return learning.load_data(self.path(self.data))
