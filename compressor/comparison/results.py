"""comparison.json: what the finished cells measured, and what may be said of it. docs/compare.md has the fields."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from compressor.comparison.added_texts import added_texts_of
from compressor.comparison.answers import Scores, difference, score_cells
from compressor.comparison.arms import Arm
from compressor.comparison.cells import Cell, CellRun, distinct
from compressor.comparison.plan import Comparison, Plan
from compressor.comparison.statistics import LEVEL, POWER, RESAMPLES, Difference, holm, smallest_visible
from compressor.comparison.workers import Failure
from compressor.distillation.training import HISTORY_FILE
from compressor.evaluation.figures import FIGURES_FILE
from compressor.pipeline.learning import load_some
from compressor.pipeline.stages import Stage, hash_json, read_json
from compressor.report.assemble import describe_environment

FORMAT_VERSION = 1
COSTS = ("runs", "steps", "epochs", "seconds", "parameters", "bytes")
RESULT_FILE, PAGE_FILE = "comparison.json", "comparison.html"
GAIN, LOSS, NO_EVIDENCE, NO_CLAIM, MISSING = "gain", "loss", "no evidence of a difference", "no claim", "missing"


def assemble(plan: Plan, cells: Sequence[Cell], failures: Sequence[Failure], *, jobs: int) -> dict[str, Any]:
    """Gather a comparison from its cells; those that failed are named and left out.

    Args:
        plan: as it was written before the first training.
        cells: all of the plan.
        failures: of this call.
        jobs: processes of this call, because they share the machine and lengthen one another's seconds.

    Returns:
        JSON values.
    """
    failed = {(failure.arm, failure.seed) for failure in failures}
    finished = [cell for cell in cells if (cell.arm, cell.seed) not in failed]
    scores = score_cells(finished)
    recipe = plan.recipe.model_dump(mode="json")
    return {
        "format_version": FORMAT_VERSION,
        "name": plan.recipe.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "tasks": _tasks(plan, finished),
        "seeds": list(plan.seeds),
        "train_rows": plan.train_rows,
        "arms": [_arm(arm, [cell for cell in finished if cell.arm == arm.label], scores) for arm in plan.arms],
        "comparisons": judged(plan, scores),
        "teachers": _teachers(finished),
        "protocol": protocol(plan, jobs),
        "failed": [asdict(failure) for failure in failures],
        "recipe_hash": hash_json(recipe),
        "recipe": recipe,
        "environment": describe_environment(),
    }


def _tasks(plan: Plan, cells: Sequence[Cell]) -> dict[str, Any]:
    if not cells:
        return {}
    pipeline = cells[0].runs[0].pipeline
    return {
        name: {
            "type": data.task.type,
            "metric": data.task.metric,
            "rows": {split: len(rows) for split, rows in data.splits.items()},
        }
        for name, data in load_some(pipeline.path(pipeline.data), plan.recipe.student_tasks).items()
    }


def protocol(plan: Plan, jobs: int) -> dict[str, Any]:
    """By which rules the comparisons were judged."""
    return {
        "main": asdict(plan.main),
        "family": len(plan.family),
        "level": LEVEL,
        "power": POWER,
        "resamples": RESAMPLES,
        "late": plan.late,
        "history": list(plan.history),
        "threads": asdict(plan.threads),
        "jobs": jobs,
    }


def _arm(arm: Arm, cells: Sequence[Cell], scores: Mapping[str, Mapping[str, Scores]]) -> dict[str, Any]:
    costs = [_cost(cell) for cell in cells]
    return {
        "label": arm.label,
        "method": arm.method,
        "set": arm.changes,
        "is_control": arm.is_control,
        "is_single": arm.is_single,
        "seeds": [cell.seed for cell in cells],
        "tasks": {task: spread(found[arm.label]) for task, found in scores.items() if arm.label in found},
        **{key: _mean(cost[key] for cost in costs) for key in COSTS},
        "added": added_texts_of(cells),
    }


def spread(scores: Scores) -> dict[str, Any]:
    """Mean, standard deviation over the seeds (None for one) and the values."""
    values = [float(value) for value in scores.values]
    return {
        "mean": statistics.fmean(values),
        "spread": statistics.stdev(values) if len(values) > 1 else None,
        "per_seed": dict(zip(map(str, scores.seeds), values, strict=True)),
    }


def _mean(values: Any) -> float | None:
    found = list(values)
    return statistics.fmean(found) if found else None


def _cost(cell: Cell) -> dict[str, float]:
    """What one cell took, all members of several runs and all students of several tasks together.

    Returns:
        `runs`: trainings; `steps`: of the optimizer; `epochs`: passes over the rows of a student's tasks, the mean over
        the students where every task has its own; `seconds`: wall time; `parameters` and `bytes` of the result.
    """
    store = cell.runs[0].pipeline.store
    trained = [_trainings(run) for run in cell.runs]
    sizes = [read_json(run.pipeline.path(run.figures) / FIGURES_FILE) for run in cell.runs]
    return {
        "runs": sum(map(len, trained)),
        "steps": sum(history["steps"] for own in trained for history in own),
        "epochs": statistics.fmean(_epochs(run, own) for run, own in zip(cell.runs, trained, strict=True)),
        "seconds": sum(store.seconds(stage) for stage in cell.own_stages),
        **{name: sum(size[name] for size in sizes) for name in ("parameters", "bytes")},
    }


def _trainings(run: CellRun) -> list[dict[str, Any]]:
    """The histories of the trainings behind one student; joining several runs is none."""
    folders = [run.pipeline.path(stage) for stage in run.own_stages]
    histories = [read_json(folder / HISTORY_FILE) for folder in folders if (folder / HISTORY_FILE).is_file()]
    return [history for history in histories if history.get("planned_steps")]


def _epochs(run: CellRun, histories: Sequence[Mapping[str, Any]]) -> float:
    """Epochs behind one student, fewer than the recipe says where a training stopped early."""
    return run.recipe.training.epochs * sum(
        (float(own["steps"] / own["planned_steps"]) for own in histories), start=0.0
    )


def judged(plan: Plan, scores: Mapping[str, Mapping[str, Scores]]) -> list[dict[str, Any]]:
    """Every comparison of the plan with its difference, p-values and verdict; scores per task and arm."""
    found = {comparison: difference(scores, comparison) for comparison in plan.comparisons}
    corrected = _corrected(plan, found)
    return [
        _comparison(comparison, measured, corrected.get(comparison), plan) for comparison, measured in found.items()
    ]


def _corrected(plan: Plan, found: Mapping[Comparison, Difference | None]) -> dict[Comparison, float]:
    """The p-value that each comparison is judged by: Holm's in the family, its own for the main one.

    A comparison that is not there (a failed cell, one seed) counts in the family as seen and not found.
    """
    p_values = {comparison: measured.p_value for comparison, measured in found.items() if measured}
    known = {comparison: p for comparison, p in p_values.items() if p is not None}
    adjusted = holm([known.get(comparison, 1.0) for comparison in plan.family])
    corrected = dict(zip(plan.family, adjusted, strict=True))
    if plan.main in known:
        corrected[plan.main] = known[plan.main]
    return {comparison: p for comparison, p in corrected.items() if comparison in known}


def _comparison(
    comparison: Comparison, measured: Difference | None, p_value: float | None, plan: Plan
) -> dict[str, Any]:
    is_main = comparison == plan.main
    entry = {**asdict(comparison), "role": "main" if is_main else "family"}
    if measured is None:
        return {**entry, "seeds": 0, "verdict": MISSING}
    visible = smallest_visible(
        measured.standard_error, measured.num_seeds, comparisons=1 if is_main else len(plan.family)
    )
    return {
        **entry,
        "difference": measured.value,
        "low": measured.low,
        "high": measured.high,
        "standard_error": measured.standard_error,
        "p_value": measured.p_value,
        "judged_p_value": p_value,
        "smallest_visible": visible,
        "seeds": measured.num_seeds,
        "per_seed": list(measured.per_seed),
        "verdict": verdict(measured, p_value),
    }


def verdict(measured: Difference, p_value: float | None) -> str:
    """`gain`, `loss`, `no evidence of a difference` or, for one seed, `no claim`.

    Args:
        measured: the difference.
        p_value: corrected where the comparison belongs to the family.
    """
    if p_value is None or measured.num_seeds < 2:
        return NO_CLAIM
    if p_value > LEVEL:
        return NO_EVIDENCE
    return GAIN if measured.value > 0 else LOSS


def _teachers(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The teachers that the cells learned from, each once per task, with the seconds of their shared stages."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for run, task in (entry for cell in cells for entry in cell.taught):
        stages = run.teachers[task]
        key = (task, *(stage.folder_name for stage in stages))
        if key not in found:
            found[key] = _teacher(run, task, stages)
    return list(found.values())


def _teacher(run: CellRun, task: str, stages: Sequence[Stage]) -> dict[str, Any]:
    pipeline, figures = run.pipeline, teacher_figures(run, task)
    found = read_json(pipeline.path(figures) / FIGURES_FILE)["tasks"][task] if pipeline.store.is_done(figures) else None
    group = run.recipe.teacher_group(task)
    return {
        "task": task,
        "trained_with": [other for other in group if other != task],
        "folds": run.recipe.teacher_of(task).folds,
        "stage": stages[0].folder_name,
        "seconds": sum(pipeline.store.seconds(stage) for stage in distinct(stages)),
        "value": found["value"] if found else None,
        "low": found["low"] if found else None,
        "high": found["high"] if found else None,
    }


def teacher_figures(run: CellRun, task: str) -> Stage:
    """The stage with a teacher's figures on test."""
    return run.pipeline.figures[f"teacher-{task}"]
