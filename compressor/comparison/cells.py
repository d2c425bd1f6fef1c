"""The cells of a comparison: one run folder per arm and seed, over one store of stages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from compressor.comparison.arms import Arm
from compressor.comparison.plan import Plan
from compressor.pipeline.run import RunFolder
from compressor.pipeline.stages import Stage, needed_for
from compressor.recipe import Recipe
from compressor.recipe_file import changed_recipe

CELLS_FOLDER = "cells"
FIGURES_LINK = "figures"
_SHARED = ("data", "teacher-", "targets-")


@dataclass(frozen=True)
class Cell:
    """One arm trained with one seed.

    Attributes:
        arm: label.
        seed: of data order, dropout and subset.
        folder: the cell's run folder.
        stages: the store that all cells share.
        recipe: what the run folder does.
    """

    arm: str
    seed: int
    folder: Path
    stages: Path
    recipe: Recipe

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    @cached_property
    def run_folder(self) -> RunFolder:
        """The cell's run folder, made if it is not there."""
        return RunFolder.open(self.folder, self.recipe, stages=self.stages)

    @property
    def figures(self) -> Stage:
        """The last stage: the student's answers on validation and test."""
        return self.run_folder.pipeline.figures["student"]

    @property
    def is_done(self) -> bool:
        """Whether the cell was finished by this or an earlier call."""
        return (self.folder / FIGURES_LINK).exists() and self.run_folder.pipeline.store.is_done(self.figures)

    @property
    def shared_stages(self) -> list[Stage]:
        """Data, teachers and targets: what other cells read too."""
        return [stage for stage in needed_for(self.figures) if stage.name.startswith(_SHARED)]

    @property
    def own_stages(self) -> list[Stage]:
        """The trainings of the student, and the joining of several, in order."""
        return [stage for stage in needed_for(self.figures)[:-1] if not stage.name.startswith(_SHARED)]

    def run(self) -> None:
        """Train and evaluate what is not there yet, and link the figures."""
        self.run_folder.run(self.figures)
        link = self.folder / FIGURES_LINK
        link.unlink(missing_ok=True)
        path = self.run_folder.pipeline.path(self.figures)
        link.symlink_to(os.path.relpath(path, link.parent), target_is_directory=True)


def cells_of(plan: Plan, output: Path, stages: Path) -> list[Cell]:
    """Every cell, seed by seed, so that an unfinished comparison has whole seeds.

    Raises:
        UserError: an arm's changes do not make a recipe.
    """
    return [
        Cell(arm.label, seed, output / CELLS_FOLDER / f"{arm.folder_name}-{seed}", stages, cell_recipe(plan, arm, seed))
        for seed in plan.seeds
        for arm in plan.arms
    ]


def cell_recipe(plan: Plan, arm: Arm, seed: int) -> Recipe:
    """The recipe of one cell: the arm's method and changes, the seed's order and labelled rows, the plan's threads."""
    changes: dict[str, Any] = {"method": arm.method, **_threads(plan)}
    changes |= arm.changes
    changes["order_seed"] = seed
    for task in plan.recipe.tasks:
        if plan.train_rows is not None:
            changes[f"tasks.{task}.train_rows"] = plan.train_rows
        if plan.train_rows is not None or plan.recipe.tasks[task].train_rows is not None:
            changes[f"tasks.{task}.train_rows_seed"] = seed
    return changed_recipe(plan.recipe, changes, origin=f"arm '{arm.label}'")


def _threads(plan: Plan) -> dict[str, int]:
    """The plan's threads at every place of the recipe that leaves them open."""
    found = {"training.threads": plan.threads.student}
    if plan.threads.teacher is None:
        return found
    sections = {"teacher": plan.recipe.teacher}
    sections |= {f"tasks.{name}.teacher": task.teacher for name, task in plan.recipe.tasks.items() if task.teacher}
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
