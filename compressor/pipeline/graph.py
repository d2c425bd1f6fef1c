"""The stages of a run, in order, and what each of them depends on.

data -> teachers -> targets -> student and controls -> figures -> candidate -> measurements -> bundle
     -> artifact figures, benchmark -> report

A stage's key holds only the recipe fields that it reads, so changing a field reruns what depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from compressor.data.fingerprint import data_fingerprint
from compressor.data.splits import TaskData
from compressor.distillation.presets import Knobs, needs_teacher
from compressor.models.resolve import checkpoint_fingerprint
from compressor.progress import announce, log_event
from compressor.recipe import Recipe, TeacherSettings, TrainingSettings
from compressor.pipeline import learning, proving, timing
from compressor.pipeline.stages import Stage, StageStore
from serving.hashing import hash_file

CONTROL_METHODS: tuple[dict[str, Knobs], ...] = ({"none": {}}, {"kd": {}})
_RESULT_NEUTRAL = {"checkpoint_seconds", "report_to"}
_RECORDED_VERSIONS = ("compressor-toolchain", "torch", "transformers", "onnx", "onnxruntime")


class Pipeline:
    """All stages of one recipe, joined to a store."""

    def __init__(self, recipe: Recipe, store: StageStore, *, allow_inconclusive: bool = False) -> None:
        self.recipe = recipe
        self.store = store
        self.allow_inconclusive = allow_inconclusive

    def path(self, stage: Stage) -> Path:
        """Folder of a stage."""
        return self.store.path(stage)

    def in_order(self) -> Iterator[Stage]:
        """Every stage after those it reads."""
        seen: set[str] = set()
        for stage in (*self.figures.values(), self.bundle, self.artifact_figures, self.benchmark):
            yield from _with_inputs(stage, seen)

    # What is trained.

    @cached_property
    def data(self) -> Stage:
        """Rows of every task: read, split, cleared of leaks."""
        tasks = self.recipe.tasks
        fields = {
            name: {**task.model_dump(mode="json", exclude={"teacher"}), "content": data_fingerprint(task)}
            for name, task in tasks.items()
        }
        return Stage(
            "data", 1, fields, lambda folder: learning.prepare_data(folder, tasks), label="reading and splitting the data"
        )

    @cached_property
    def teachers(self) -> dict[str, Stage]:
        """One teacher per task."""
        return {task: self._teacher(task, self.recipe.teacher_of(task)) for task in self.recipe.tasks}

    def _teacher(self, task: str, settings: TeacherSettings) -> Stage:
        inputs = {"data": self.data}
        if settings.predictions is not None:
            fields: dict[str, Any] = {"task": task, "predictions": hash_file(settings.predictions)}
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
        return {
            task: Stage(
                f"targets-{task}",
                1,
                {"max_length": self.recipe.max_length},
                lambda folder, task=task, teacher=teacher: learning.compute_targets(
                    folder, self._task_data(task), self.path(teacher), self.recipe.max_length
                ),
                {"data": self.data, "teacher": teacher},
                label=f"asking the teacher for its targets for {task}",
            )
            for task, teacher in self.teachers.items()
        }

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
                targets={task: self.path(stage) for task, stage in self.targets.items()} if needs_teacher(methods) else {},
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

    # What is measured.

    @cached_property
    def figures(self) -> dict[str, Stage]:
        """Logits and figures of every model: `teacher-<task>`, `student`, `control-<method>`."""
        models = {"student": self.student} | {f"control-{name}": stage for name, stage in self.controls.items()}
        teachers = {f"teacher-{task}": self._teacher_figures(task) for task in self.teachers}
        return teachers | {role: self._student_figures(stage) for role, stage in models.items()}

    def _teacher_figures(self, task: str) -> Stage:
        teacher = self.teachers[task]
        return Stage(
            f"figures-{teacher.name}",
            1,
            {"max_length": self.recipe.max_length},
            lambda folder: proving.measure_teacher(
                folder, self._task_data(task), self.path(teacher), self.recipe.max_length
            ),
            {"data": self.data, "teacher": teacher},
            label=f"evaluating the teacher for {task}",
        )

    def _student_figures(self, student: Stage) -> Stage:
        return Stage(
            f"figures-{student.name}",
            1,
            {"max_length": self.recipe.max_length},
            lambda folder: proving.measure_student(
                folder, self._all_data(), self.path(student), self.recipe.max_length
            ),
            {"data": self.data, "student": student},
            label=f"evaluating {student.name}",
        )

    @cached_property
    def candidate(self) -> Stage:
        """Graphs of the student, not yet certified."""
        export = self.recipe.export
        return Stage(
            "candidate",
            1,
            {"precisions": export.precisions, "opset": export.opset, "max_length": self.recipe.max_length},
            lambda folder: proving.export_student(
                folder, self.path(self.student), self._all_data(), self.recipe
            ),
            {"student": self.student, "data": self.data},
            label="exporting to ONNX and quantising",
        )

    @cached_property
    def measurements(self) -> Stage:
        """Parity, validation metrics, gates and golden examples of every artifact."""
        compared = {role: stage for role, stage in self.figures.items() if not role.startswith("control-")}
        if self.recipe.gates.teacher_metric_drop is None:
            compared = {}
        return Stage(
            "measurements",
            1,
            {
                "gates": self.recipe.gates.model_dump(mode="json"),
                "golden": self.recipe.export.golden,
                "allow_inconclusive": self.allow_inconclusive,
            },
            lambda folder: proving.measure_candidate(
                folder,
                self.path(self.candidate),
                student=self.path(self.student),
                data=self._all_data(),
                recipe=self.recipe,
                figures={role: self.path(stage) for role, stage in compared.items()},
                allow_inconclusive=self.allow_inconclusive,
            ),
            {"candidate": self.candidate, "data": self.data, **compared},
            label="checking that the graphs say the same",
        )

    @cached_property
    def bundle(self) -> Stage:
        """The folder that is served."""
        return Stage(
            "bundle",
            1,
            {"name": self.recipe.name},
            lambda folder: proving.make_bundle(
                folder,
                self.path(self.candidate),
                self.path(self.measurements),
                name=self.recipe.name,
                provenance=self._provenance(),
            ),
            {"candidate": self.candidate, "measurements": self.measurements},
            label="assembling the bundle",
        )

    @property
    def bundle_folder(self) -> Path:
        """Where the bundle lies inside its stage: a bundle holds nothing else than what a server needs."""
        return self.path(self.bundle) / proving.BUNDLE_FOLDER

    def _provenance(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "stages": {stage.name: stage.key for stage in (self.data, self.student, self.candidate, self.measurements)},
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": {name: metadata.version(name) for name in _RECORDED_VERSIONS},
        }

    @cached_property
    def artifact_figures(self) -> Stage:
        """Test figures of every artifact, asked through the bundle."""
        return Stage(
            "figures-artifacts",
            1,
            {},
            lambda folder: proving.measure_artifacts(folder, self._all_data(), self.bundle_folder),
            {"bundle": self.bundle, "data": self.data},
            label="evaluating the artifacts",
        )

    @cached_property
    def benchmark(self) -> Stage:
        """Latency of teacher, student and artifacts on this machine."""
        inputs = {"bundle": self.bundle, "student": self.student, "data": self.data}
        teachers = {
            task: stage for task, stage in self.teachers.items() if self.recipe.teacher_of(task).predictions is None
        }
        return Stage(
            "benchmark",
            1,
            {"benchmark": self.recipe.benchmark.model_dump(mode="json")},
            lambda folder: timing.measure_latency(
                folder,
                self.bundle_folder,
                student=self.path(self.student),
                teachers={task: self.path(stage) for task, stage in teachers.items()},
                data=self._all_data(),
                settings=self.recipe.benchmark,
            ),
            {**inputs, **{f"teacher-{task}": stage for task, stage in teachers.items()}},
            label="timing teacher, student and artifacts",
        )


def run_stages(pipeline: Pipeline, stages: Iterator[Stage] | list[Stage], log: Path | None = None) -> dict[str, float]:
    """Run stages in order and say so.

    Returns:
        Seconds per stage folder; 0 for those that were there already.
    """
    seconds: dict[str, float] = {}
    for stage in stages:
        started = time.monotonic()
        if pipeline.store.is_done(stage):
            announce(f"= {stage.label}: done before ({stage.folder_name})")
            seconds[stage.folder_name] = 0.0
            continue
        announce(f"> {stage.label}")
        log_event(log, "stage started", stage=stage.folder_name)
        pipeline.store.run(stage)
        seconds[stage.folder_name] = time.monotonic() - started
        log_event(log, "stage finished", stage=stage.folder_name, seconds=seconds[stage.folder_name])
        announce(f"  done in {seconds[stage.folder_name]:.1f} s")
    return seconds


def needed_for(*targets: Stage) -> list[Stage]:
    """The stages that some stages need, those themselves last."""
    seen: set[str] = set()
    return [stage for target in targets for stage in _with_inputs(target, seen)]


def _with_inputs(stage: Stage, seen: set[str]) -> Iterator[Stage]:
    if stage.folder_name in seen:
        return
    seen.add(stage.folder_name)
    for other in stage.inputs.values():
        yield from _with_inputs(other, seen)
    yield stage
