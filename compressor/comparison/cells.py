"""The cells of a comparison: one per arm and seed, over one store of stages.

A cell is one run folder, or, of an arm with a student per task, one run folder per task.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from compressor.comparison.arms import NONE, Arm
from compressor.comparison.plan import Plan
from compressor.distillation.presets import PRESETS, Knobs, knobs_of, methods_at, reads_targets
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.run import RunFolder
from compressor.pipeline.stages import Stage, needed_for
from compressor.recipe import Recipe
from compressor.recipe_file import changed_recipe
from export.runners import limit_threads

CELLS_FOLDER = "cells"
FIGURES_LINK = "figures"
_SHARED = ("data", "teacher-", "targets-", "masked-lm", "source-texts-", "candidates-")


@dataclass(frozen=True)
class CellRun:
    """The training and evaluation of one student of a cell.

    Attributes:
        folder: the run folder.
        stages: the store that all cells share.
        recipe: what the run folder does.
    """

    folder: Path
    stages: Path
    recipe: Recipe

    @cached_property
    def run_folder(self) -> RunFolder:
        """The run folder, made if it is not there."""
        return RunFolder.open(self.folder, self.recipe, stages=self.stages)

    @property
    def pipeline(self) -> Pipeline:
        """Its stages."""
        return self.run_folder.pipeline

    @property
    def figures(self) -> Stage:
        """The last stage: the student's answers on validation and test."""
        return self.pipeline.figures["student"]

    @property
    def is_done(self) -> bool:
        """Whether it was finished by this or an earlier call."""
        return (self.folder / FIGURES_LINK).exists() and self.pipeline.store.is_done(self.figures)

    @property
    def teachers(self) -> dict[str, list[Stage]]:
        """Per task the teachers that the student needs, of which the first is asked about test."""
        needed = {stage.folder_name for stage in needed_for(self.figures)}
        every = {task: self.pipeline.every_teacher_of(task) for task in self.recipe.taught_tasks}
        found = {task: [stage for stage in stages if stage.folder_name in needed] for task, stages in every.items()}
        return {task: stages for task, stages in found.items() if stages}

    @property
    def own_stages(self) -> list[Stage]:
        """The trainings of the student, and the joining of several, in order."""
        return [stage for stage in needed_for(self.figures)[:-1] if not stage.name.startswith(_SHARED)]

    def run(self) -> None:
        """Train and evaluate what is not there yet on the plan's threads, and link the figures."""
        with limit_threads(self.recipe.training.cpu_threads):
            self.run_folder.run(self.figures)
        link = self.folder / FIGURES_LINK
        link.unlink(missing_ok=True)
        path = self.pipeline.path(self.figures)
        link.symlink_to(os.path.relpath(path, link.parent), target_is_directory=True)


@dataclass(frozen=True)
class Cell:
    """One arm trained with one seed.

    Attributes:
        arm: label.
        seed: of data order, dropout and subset.
        folder: of the cell.
        runs: one, or one per task.
    """

    arm: str
    seed: int
    folder: Path
    runs: tuple[CellRun, ...]

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    @property
    def is_done(self) -> bool:
        """Whether every student was finished by this or an earlier call."""
        return all(run.is_done for run in self.runs)

    @property
    def shared_stages(self) -> list[Stage]:
        """Data, teachers, targets and texts to add: what other cells read too."""
        needed = needed_for(*(run.figures for run in self.runs))
        return [stage for stage in needed if stage.name.startswith(_SHARED)]

    @property
    def taught(self) -> list[tuple[CellRun, str]]:
        """The runs and tasks that need a teacher."""
        return [(run, task) for run in self.runs for task in run.teachers]

    @property
    def own_stages(self) -> list[Stage]:
        """The trainings of the students, and the joining of several, in order."""
        return distinct(stage for run in self.runs for stage in run.own_stages)

    def without_stages(self) -> Cell:
        """The same cell without the stages it may hold, which cannot be sent to another process."""
        return replace(self, runs=tuple(replace(run) for run in self.runs))

    def run(self) -> None:
        """Train and evaluate what is not there yet, one student after the other."""
        for run in self.runs:
            run.run()


def cells_of(plan: Plan, output: Path, stages: Path) -> list[Cell]:
    """Every cell, seed by seed, so that an unfinished comparison has whole seeds.

    Raises:
        UserError: an arm's changes do not make a recipe.
    """
    return [_cell(plan, arm, seed, output, stages) for seed in plan.seeds for arm in plan.arms]


def cell_folder(output: Path, arm: Arm, seed: int | str) -> Path:
    """Where a cell of the comparison in `output` lies."""
    return output / CELLS_FOLDER / f"{arm.folder_name}-{seed}"


def _cell(plan: Plan, arm: Arm, seed: int, output: Path, stages: Path) -> Cell:
    folder = cell_folder(output, arm, seed)
    if not arm.is_single:
        return Cell(arm.label, seed, folder, (CellRun(folder, stages, cell_recipe(plan, arm, seed)),))
    tasks = plan.recipe.student_tasks
    runs = tuple(CellRun(folder / task, stages, cell_recipe(plan, arm, seed, task=task)) for task in tasks)
    return Cell(arm.label, seed, folder, runs)


def cell_recipe(plan: Plan, arm: Arm, seed: int, *, task: str | None = None) -> Recipe:
    """The recipe of one run: the arm's method and changes, the seed's order and labelled rows, the plan's threads.

    Args:
        plan: of the comparison.
        arm: its method and changes.
        seed: of the cell.
        task: the one that the student answers; None for all that the recipe's student answers.
    """
    changes: dict[str, Any] = {"method": _method(plan, arm, task), **_threads(plan)}
    changes |= arm.changes
    changes["order_seed"] = seed
    if task is not None:
        changes["student.tasks"] = [task]
        changes["gates.teacher_metric_drop"] = None  # no gate is looked at here, and this task may have no teacher
    for name, settings in plan.recipe.tasks.items():
        if plan.train_rows is not None:
            changes[f"tasks.{name}.train_rows"] = plan.train_rows
        if plan.train_rows is not None or settings.train_rows is not None:
            changes[f"tasks.{name}.train_rows_seed"] = seed
    return changed_recipe(plan.recipe, changes, origin=f"arm '{arm.label}'")


def _method(plan: Plan, arm: Arm, task: str | None) -> dict[str, Knobs]:
    """The arm's method; for the student of one task what of it concerns that task."""
    if task is None:
        return arm.method
    method = _with_own_texts(plan, arm, task)
    if plan.recipe.has_teacher(task):
        return method
    kept = {
        name: knobs
        for name, knobs in method.items()
        if not PRESETS[name].needs_teacher and not reads_targets(name, knobs_of(method, name))
    }
    return kept or {NONE: {}}


def _with_own_texts(plan: Plan, arm: Arm, task: str) -> dict[str, Knobs]:
    """The method with texts for this task where the shared student has some for it, else without."""
    method = dict(arm.method)
    for name in methods_at(arm.method, "texts"):
        if task in plan.recipe.augmented_tasks(knobs_of(arm.method, name)):
            method[name] = {**arm.method[name], "tasks": [task]}
        else:
            del method[name]
    return method or {NONE: {}}


def _threads(plan: Plan) -> dict[str, int]:
    """The plan's threads at every place of the recipe that leaves them open."""
    found = {"training.threads": plan.threads.student}
    if plan.threads.teacher is None:
        return found
    own = {name: plan.recipe.own_teacher(name) for name in plan.recipe.tasks}
    sections = {"teacher": plan.recipe.teacher}
    sections |= {f"tasks.{name}.teacher": teacher for name, teacher in own.items() if teacher}
    for place, settings in sections.items():
        if "threads" not in settings.model_fields_set:
            found[f"{place}.threads"] = plan.threads.teacher
    return found


def distinct(stages: Iterable[Stage]) -> list[Stage]:
    """Stages without repetitions, in order."""
    return list({stage.folder_name: stage for stage in stages}.values())


def unfinished(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are still to be run."""
    return [cell for cell in cells if not cell.is_done]
