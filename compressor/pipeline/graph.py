"""The stages of a run, in order, and what each of them depends on.

data -> teachers -> targets -> student and controls -> figures -> candidate -> measurements -> bundle
     -> artifact figures, benchmark -> report

The student may be the average of several runs, which then come before it. A stage's key holds only the recipe
fields that it reads, so changing a field reruns what depends on it. The stages up to the student are in
`teacher_stages` and `learning_stages`, those that measure and prove are here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from compressor.distillation.presets import file_label_of, label_of
from compressor.evaluation.flatness import Survey
from compressor.pipeline import proving, quantising
from compressor.pipeline.confidence import measure_confidence
from compressor.pipeline.flatness import centres_of, measure_flatness
from compressor.pipeline.learning_stages import LearningStages
from compressor.pipeline.provenance import Added, data_facts, model_facts, recipe_facts, recorded_versions
from compressor.pipeline.several_runs import runs_name
from compressor.pipeline.stages import Stage, needed_for
from compressor.pipeline.teacher_stages import by_role
from compressor.pipeline.timing_stages import benchmark_stage, waterfall_stage
from serving.kernels import products_saturate


class Pipeline(LearningStages):
    """All stages of one recipe, joined to a store."""

    @property
    def final_stages(self) -> list[Stage]:
        """What a report needs, besides what these need."""
        optional = [stage for stage in (self.flatness, self.quantisation, self.waterfall) if stage]
        return [*self.figures.values(), *optional, self.bundle, self.artifact_figures, self.confidence, self.benchmark]

    def in_order(self) -> list[Stage]:
        """Every stage after those it reads."""
        return needed_for(*self.final_stages)

    @cached_property
    def figures(self) -> dict[str, Stage]:
        """Logits and figures of every model: `teacher-<task>`, `student`, `control-<method>`.

        Each needs its own model only: the figures of a student without a teacher force no teacher's training.
        """
        teachers = {f"teacher-{task}": self._teacher_figures(task) for task in self.teachers}
        controls = {f"control-{name}": self._student_figures([stage]) for name, stage in self.controls.items()}
        return {**teachers, "student": self._figures_of_the_method(), **controls}

    def _figures_of_the_method(self) -> Stage:
        if runs_name(self.recipe.method) == "vote":
            return self._student_figures(self.members, called=file_label_of(self.recipe.method))
        return self._student_figures([self.student])

    def _teacher_figures(self, task: str) -> Stage:
        members = self.teacher_members[task]
        return Stage(
            f"figures-teacher-{task}",
            2,
            {"max_length": self.recipe.max_length},
            lambda folder: proving.measure_teacher(
                folder, self._task_data(task), [self.path(stage) for stage in members], self.recipe.max_length
            ),
            {"data": self.data, **by_role("teacher", members)},
            label=f"evaluating the teacher for {task}",
        )

    def _student_figures(self, students: Sequence[Stage], *, called: str = "") -> Stage:
        """Figures of a student, or of several that vote."""
        name = f"student-{called}" if called else students[0].name
        return Stage(
            f"figures-{name}",
            2,
            {"max_length": self.recipe.max_length},
            lambda folder: proving.measure_students(
                folder, self._all_data(), [self.path(stage) for stage in students], self.recipe.max_length
            ),
            {"data": self.data, **by_role("student", students)},
            label=f"evaluating {name}",
        )

    @cached_property
    def flatness(self) -> Stage | None:
        """The loss around the average and the last iterate of a run by swa; None for a student made otherwise."""
        if "swa" not in self.recipe.method or runs_name(self.recipe.method):
            return None
        return Stage(
            "flatness",
            1,
            {"max_length": self.recipe.max_length, "survey": asdict(Survey())},
            lambda folder: measure_flatness(
                folder, self._all_data(), centres_of(self.path(self.student)), self.recipe.max_length, Survey()
            ),
            {"data": self.data, "student": self.student},
            label="looking at the loss around the averaged weights",
        )

    @cached_property
    def candidate(self) -> Stage:
        """Graphs of the student, not yet certified."""
        export = self.recipe.export
        return Stage(
            "candidate",
            5,
            {
                "precisions": export.precisions,
                "opset": export.opset,
                **self._target_fields(),
                "max_length": self.recipe.max_length,
                "reduce_range": products_saturate(),
                **quantising.key_fields(self.recipe),
            },
            lambda folder: proving.export_student(folder, self.path(self.student), self._all_data(), self.recipe),
            {"student": self.student, "data": self.data},
            label="exporting to ONNX and quantising",
        )

    @cached_property
    def quantisation(self) -> Stage | None:
        """What quantisation did, layer by layer; None where every artifact is fp32."""
        fields = quantising.key_fields(self.recipe)
        if not fields:
            return None
        return Stage(
            "quantisation",
            1,
            fields,
            lambda folder: quantising.explain_candidate(
                folder, self.path(self.candidate), quantising.quantising_of(self.recipe, self._all_data())
            ),
            {"candidate": self.candidate, "data": self.data},
            label="looking at what quantising each layer costs",
        )

    def _target_fields(self) -> dict[str, str]:
        """The runtime that the bundle is for, where one is named: an earlier run without one keeps its keys."""
        runtime = self.recipe.export.target_runtime
        return {} if runtime is None else {"target_runtime": runtime}

    @cached_property
    def measurements(self) -> Stage:
        """Parity, validation metrics, gates and golden examples of every artifact."""
        inputs = {"candidate": self.candidate, "student": self.student, "data": self.data}
        if self.recipe.gates.teacher_metric_drop is not None:
            compared = [role for role in self.figures if not role.startswith("control-")]
            inputs |= {f"figures-{role}": self.figures[role] for role in compared}
        return Stage(
            "measurements",
            3,
            {
                "gates": self.recipe.gates.model_dump(mode="json"),
                "golden": self.recipe.export.golden,
                **self._target_fields(),
                "temperature": self.recipe.export.temperature,
            },
            lambda folder: proving.measure_candidate(
                folder,
                {role: self.path(stage) for role, stage in inputs.items()},
                self._all_data(),
                recipe=self.recipe,
            ),
            inputs,
            label="checking that the graphs say the same",
        )

    @cached_property
    def bundle(self) -> Stage:
        """The folder that is served."""
        return Stage(
            "bundle",
            3,
            {"name": self.recipe.name, "intended_use": self.recipe.intended_use},
            lambda folder: proving.make_bundle(
                folder,
                self.path(self.candidate),
                self.path(self.measurements),
                name=self.recipe.name,
                provenance=self.provenance(),
            ),
            {"candidate": self.candidate, "measurements": self.measurements},
            label="assembling the bundle",
        )

    @property
    def bundle_folder(self) -> Path:
        """Where the bundle lies inside its stage: a bundle holds nothing else than what a server needs."""
        return self.path(self.bundle) / proving.BUNDLE_FOLDER

    def provenance(self) -> dict[str, Any]:
        """Where the bundle comes from; everything but the date is found again by asking twice."""
        recipe = self.recipe
        needed = {stage.folder_name for stage in needed_for(self.bundle)}
        teachers = {
            task: [self.path(stage) for stage in members]
            for task, members in self.teacher_members.items()
            if members[0].folder_name in needed
        }
        return {
            **recipe_facts(recipe),
            "stages": {stage.name: stage.key for stage in (self.data, self.student, self.candidate, self.measurements)},
            "data": data_facts(
                self._all_data(),
                {task: settings.data for task, settings in recipe.tasks.items()},
                added={
                    task: Added(label_of(recipe.method), place.kept().texts)
                    for task, place in self.added_places(recipe.method).items()
                },
            ),
            "models": model_facts(self.path(self.student), teachers, self.masked_lm(recipe.method)),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": recorded_versions(),
        }

    @cached_property
    def artifact_figures(self) -> Stage:
        """Test figures of every artifact, asked through the bundle."""
        return Stage(
            "figures-artifacts",
            2,
            {},
            lambda folder: proving.measure_artifacts(folder, self._all_data(), self.bundle_folder),
            {"bundle": self.bundle, "data": self.data},
            label="evaluating the artifacts",
        )

    @cached_property
    def confidence(self) -> Stage:
        """How far answers can be believed, and which of them changed: every model on test."""
        inputs = {
            "data": self.data,
            "bundle": self.bundle,
            "measurements": self.measurements,
            "artifacts": self.artifact_figures,
            **{f"figures-{role}": stage for role, stage in self.figures.items()},
        }
        return Stage(
            "confidence",
            1,
            {},
            lambda folder: measure_confidence(
                folder, {role: self.path(stage) for role, stage in inputs.items()}, self._all_data(), self.bundle_folder
            ),
            inputs,
            label="measuring calibration and churn",
        )

    @cached_property
    def benchmark(self) -> Stage:
        """Latency of teacher, student and artifacts on this machine."""
        return benchmark_stage(self, self._all_data)

    @cached_property
    def waterfall(self) -> Stage | None:
        """What each step from the padded teacher to the bundle is worth."""
        return waterfall_stage(self, self._all_data)
