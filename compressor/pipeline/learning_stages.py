"""The stages up to the student: what `teacher_stages` and `augmenting_stages` have, then the student and its controls.

A method of several runs (`avg`, `vote`) has a stage per run. They start from the same initial weights and differ
in data order and dropout; the first is the stage of the same method without `avg` or `vote`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from compressor.distillation.presets import PRESETS, Knobs, file_label_of, knobs_of, label_of, needs_teacher
from compressor.models.resolve import checkpoint_fingerprint
from compressor.pipeline import learning
from compressor.pipeline.augmenting_stages import AugmentingStages
from compressor.pipeline.joining import average_students, check_are_students
from compressor.pipeline.several_runs import (
    given_folders,
    member_methods,
    member_seed,
    runs_name,
    without_folders,
)
from compressor.pipeline.stages import Stage
from compressor.pipeline.teacher_stages import by_role
from serving.errors import UserError


class LearningStages(AugmentingStages):
    """What a recipe trains, joined to a store; each stage is made when it is asked for."""

    @cached_property
    def student(self) -> Stage:
        """The student, by the recipe's method.

        Raises:
            UserError: the method is `vote`, which leaves several models and no single one.
        """
        runs = runs_name(self.recipe.method)
        if runs == "vote":
            raise UserError(
                f"method '{label_of(self.recipe.method)}' leaves several models that vote, and only one model can be "
                "exported. Measure it with `compressor compare`, use avg, or distil it into one student: "
                "teacher.ensemble trains such a vote as the teacher."
            )
        return self._average(self.recipe.method) if runs else self.members[0]

    @cached_property
    def members(self) -> list[Stage]:
        """The trainings behind the student: one, or those that `avg` or `vote` joins; none if `avg` is given them."""
        methods = self.recipe.method
        if given_folders(methods):
            return []
        runs = runs_name(methods)
        number = knobs_of(methods, runs).runs if runs else 1
        seeds = [member_seed(self.recipe.student_order_seed, member) for member in range(number)]
        notes = [f", run {place} of {number}" if runs else "" for place in range(1, number + 1)]
        return [
            self._trained(member_methods(methods), seed, note=note) for seed, note in zip(seeds, notes, strict=True)
        ]

    @property
    def given_members(self) -> list[Path]:
        """The folders of finished students that `avg` joins instead of training."""
        return given_folders(self.recipe.method)

    def member_folders(self) -> list[Path]:
        """Where the students lie that `avg` joins."""
        return self.given_members or [self.path(stage) for stage in self.members]

    @cached_property
    def controls(self) -> dict[str, Stage]:
        """The same student on labels alone and, where it has a teacher and the method is another, by plain kd.

        Labelled rows, learning rates and steps are those of the student; kd has the method's own kd knobs. Texts
        without label are read where a teacher is: by epochs, `none` has so many steps fewer.
        """
        methods = self.recipe.method
        controls: dict[str, dict[str, Knobs]] = {"none": {"none": {}}}
        if self.recipe.taught_tasks:
            controls["kd"] = {"kd": methods.get("kd", {})}
        if methods.keys() == {"none"}:
            return {}
        return {
            name: self._trained(control, self.recipe.student_order_seed)
            for name, control in controls.items()
            if control.keys() != methods.keys()
        }

    def _trained(self, methods: Mapping[str, Knobs], order_seed: int, *, note: str = "") -> Stage:
        recipe = self.recipe.model_copy(update={"method": dict(methods), "order_seed": order_seed})
        targets = self.targets if needs_teacher(methods) else {}
        inputs = {"data": self.data, **{f"targets-{task}": stage for task, stage in targets.items()}}
        for task, stages in self.added_stages(methods).items():
            inputs |= {f"{role}-{task}": stage for role, stage in stages.items()}
        if recipe.student.init == "teacher":
            inputs["teacher"] = next(iter(self.teachers.values()))
        return Stage(
            f"student-{file_label_of(methods)}",
            3,
            {
                "tasks": sorted(recipe.student_tasks),
                "base": checkpoint_fingerprint(recipe.student_model()),
                "layers": recipe.student.layers,
                "init": learning.start_of(recipe),
                "methods": _with_defaults(methods),
                **self._training_fields(
                    recipe.training, learning.Seeds(recipe.seed, order_seed), num_tasks=len(recipe.student_tasks)
                ),
            },
            lambda folder: learning.train_student(
                folder,
                self._all_data(),
                recipe,
                targets={task: self.path(stage) for task, stage in targets.items()},
                added=self.added_places(methods),
                teacher=self.path(inputs["teacher"]) if "teacher" in inputs else None,
            ),
            inputs,
            label=f"training the student ({label_of(methods)}{note})",
        )

    def _average(self, methods: Mapping[str, Knobs]) -> Stage:
        given = self.given_members
        check_are_students(given)
        called = without_folders(methods)
        return Stage(
            f"student-{file_label_of(called)}",
            1,
            {"given": [checkpoint_fingerprint(str(folder)) for folder in given]},
            lambda folder: average_students(folder, self.member_folders()),
            by_role("member", self.members),
            label=f"averaging the weights of {len(given or self.members)} students ({label_of(called)})",
        )


def _with_defaults(methods: Mapping[str, Knobs]) -> dict[str, Knobs]:
    """Knobs that are written out at their default are the same method."""
    return {name: asdict(knobs_of(methods, name)) for name in PRESETS if name in methods}
