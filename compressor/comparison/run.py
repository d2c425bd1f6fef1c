"""A comparison from its options to its files: plan, shared stages, cells, comparison.json and comparison.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.comparison.answers import check_common_rows
from compressor.comparison.arms import Arm, arms_from_file, arms_from_text, with_controls
from compressor.comparison.cells import CELLS_FOLDER, Cell, cells_of, distinct, unfinished
from compressor.comparison.page import write_comparison_page
from compressor.comparison.plan import Plan, Threads, extended, main_comparison, read_plan
from compressor.comparison.results import PAGE_FILE, RESULT_FILE, assemble, teacher_figures
from compressor.comparison.workers import Failure, run_cells
from compressor.distillation.presets import label_of
from compressor.pipeline.checks import check_before_training, check_with_data
from compressor.pipeline.learning import load_data
from compressor.pipeline.run import STAGES_FOLDER
from compressor.pipeline.stages import Stage, StageStore, run_stages, write_json
from compressor.pipeline.teacher_stages import cost_of_folds
from compressor.progress import announce
from compressor.recipe import Recipe
from serving.errors import UserError
from serving.host import available_cpus


@dataclass(frozen=True)
class Wanted:
    """What a call asks for, as the command line gives it.

    Attributes:
        methods: `none,kd,swa` or None.
        arms: a file of arms, or None.
        num_seeds: how many seeds.
        first_seed: the lowest of them.
        train_rows: labelled rows that every seed draws, or None for what the recipe says.
        main: `METHOD:BASELINE[@TASK]`, or None for the first method against `none`.
        rename_main: accept another main comparison after results.
        jobs: processes.
    """

    methods: str | None = None
    arms: Path | None = None
    num_seeds: int = 5
    first_seed: int = 0
    train_rows: int | None = None
    main: str | None = None
    rename_main: bool = False
    jobs: int = 1


def default_output(recipe: Recipe) -> Path:
    """comparisons/<name> in the working directory."""
    return Path("comparisons") / recipe.name


def compare(
    recipe: Recipe, wanted: Wanted, output: Path, stages: Path | None = None
) -> tuple[dict[str, Any], list[Failure]]:
    """Run what is not there yet of a comparison and write its files into `output`.

    Args:
        recipe: what all arms share.
        wanted: arms, seeds and so on.
        output: folder of the comparison.
        stages: a stage store to share; default: inside `output`.

    Returns:
        The content of comparison.json, and the cells that failed.
    """
    store = stages or output / STAGES_FOLDER
    plan = _planned(recipe, wanted, output, store)
    cells = cells_of(plan, output, store)
    waiting = unfinished(cells)
    announce(
        f"{len(plan.arms)} arms, {len(plan.seeds)} seeds: {len(cells)} cells, {len(cells) - len(waiting)} done before"
    )
    if waiting:
        _check_before_training(waiting, cells)
    plan = plan.recorded(len(cells) - len(waiting))
    plan.write(output)
    announce(f"main comparison: {plan.main}; Holm's correction over {len(plan.family)} others")
    shared = _shared_stages(waiting)
    if cost := cost_of_folds(shared, StageStore(store)):
        announce(cost)
    run_stages(StageStore(store), shared)
    failures = run_cells(waiting, wanted.jobs)
    found = assemble(plan, cells, failures, jobs=wanted.jobs)
    write_json(output / RESULT_FILE, found)
    write_comparison_page(found, output / PAGE_FILE)
    return found, failures


def _check_before_training(waiting: Sequence[Cell], cells: Sequence[Cell]) -> None:
    """Everything that can be found wrong with any arm, before the plan is written and a step is trained."""
    first = {cell.arm: cell for cell in reversed(waiting)}.values()
    for cell in first:
        for run in cell.runs:
            check_before_training(run.recipe)
    untrained = [stage for cell in cells for run in cell.runs for stage in run.pipeline.untrained]
    needed = {stage.folder_name for cell in cells for stage in cell.shared_stages}
    run_stages(waiting[0].runs[0].pipeline.store, distinct(stage for stage in untrained if stage.folder_name in needed))
    for cell in first:
        for run in cell.runs:
            check_with_data(run.recipe, load_data(run.pipeline.path(run.pipeline.data)))
    check_common_rows(cells)


def _shared_stages(cells: Sequence[Cell]) -> list[Stage]:
    """Data, teachers and targets of some cells, and the teachers' figures, each once."""
    found: list[Stage] = []
    for cell in cells:
        found += cell.shared_stages
        found += [teacher_figures(run, task) for run, task in cell.taught]
    return distinct(found)


def check_finished(failures: Sequence[Failure], output: Path) -> None:
    """Nothing when all cells are done; else an error that names every one that is not.

    Raises:
        UserError: the user can mend all of them.
        RuntimeError: one is a fault of ours.
    """
    if not failures:
        return
    lines = "; ".join(f"{failure.arm}, seed {failure.seed}: {failure.error}" for failure in failures)
    message = f"{len(failures)} cells failed and stand apart in '{output}'; the same command tries them again: {lines}"
    if all(failure.is_users for failure in failures):
        raise UserError(message)
    raise RuntimeError(message)


def _planned(recipe: Recipe, wanted: Wanted, output: Path, store: Path) -> Plan:
    """The plan of this call, joined to that of an earlier one and written down."""
    if output.is_file():
        raise UserError(f"the output '{output}' is a file. Give a folder with --output.")
    old = read_plan(output)
    if (
        old is None
        and output.is_dir()
        and any(path.name not in (STAGES_FOLDER, CELLS_FOLDER) for path in output.iterdir())
    ):
        raise UserError(f"the output folder '{output}' holds other things. Give a new or empty folder with --output.")
    tasks = list(recipe.student_tasks)
    arms = with_controls(_arms(recipe, wanted, old), tasks)
    new = Plan(
        recipe=recipe,
        arms=arms,
        seeds=tuple(range(wanted.first_seed, wanted.first_seed + wanted.num_seeds)),
        train_rows=wanted.train_rows,
        main=main_comparison(wanted.main, arms, tasks),
        threads=_threads(recipe, wanted.jobs),
    )
    if old is None:
        return new
    done = len(cells_of(old, output, store)) - len(unfinished(cells_of(old, output, store)))
    plan = extended(old, new, finished_cells=done, rename_main=wanted.rename_main, main_given=wanted.main is not None)
    if plan.threads != new.threads:
        announce(
            f"trainings keep the {plan.threads.student} threads that this comparison began with, not "
            f"{new.threads.student}: another number would change the weights"
        )
    return plan


def _arms(recipe: Recipe, wanted: Wanted, old: Plan | None) -> list[Arm]:
    """The arms of an earlier call and those that this one adds; without any, the recipe's own method."""
    asked = arms_from_text(wanted.methods) if wanted.methods is not None else []
    asked += arms_from_file(wanted.arms) if wanted.arms is not None else []
    if old is None:
        return asked or [Arm(label_of(recipe.method), dict(recipe.method))]
    known = {arm.label: arm for arm in old.arms}
    for arm in asked:
        if known.get(arm.label, arm) != arm:
            raise UserError(f"the arm '{arm.label}' means something else than in the earlier call. Give it a new name.")
    return [*old.arms, *(arm for arm in asked if arm.label not in known)]


def _threads(recipe: Recipe, jobs: int) -> Threads:
    """What the recipe says, else an equal share of the CPUs for each job, and all of them for the teacher."""
    if recipe.training.threads is not None:
        return Threads(recipe.training.threads, None)
    return Threads(max(1, available_cpus() // jobs), available_cpus())
