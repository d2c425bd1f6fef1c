"""What will be compared, written down before the first training: arms, seeds, the main comparison, the threads.

comparison-plan.json is made by the first call; a later one may add arms and seeds, which the plan then shows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compressor.comparison.arms import NONE, NONE_SINGLE, Arm, label_in_text, pairs
from compressor.pipeline.stages import hash_json, read_json, write_json
from compressor.recipe import Recipe
from compressor.recipe_file import build_recipe
from serving.errors import UserError

PLAN_FILE = "comparison-plan.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline on one task.

    Attributes:
        method: label of an arm.
        baseline: label of a control.
        task: of the recipe.
    """

    method: str
    baseline: str
    task: str

    def __str__(self) -> str:
        return f"{self.method} against {self.baseline} on {self.task}"


@dataclass(frozen=True)
class Threads:
    """CPU threads of trainings; they change the weights, so they are decided once.

    Attributes:
        student: of every cell.
        teacher: of the stages that all cells share; None: what the recipe says.
    """

    student: int
    teacher: int | None


@dataclass(frozen=True)
class Plan:
    """A comparison as it was announced.

    Attributes:
        recipe: what all arms share.
        arms: the controls first.
        seeds: of data order, dropout and, with `train_rows`, the labelled subset.
        train_rows: labelled rows per task and seed, or None for what the recipe says.
        main: the one comparison that stands at its own level.
        threads: of the trainings.
        history: one entry per call that changed the plan: time, arms, seeds, main, finished cells.
    """

    recipe: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    train_rows: int | None
    main: Comparison
    threads: Threads
    history: tuple[dict[str, Any], ...] = ()

    @property
    def baselines(self) -> list[str]:
        """The controls that others are compared with."""
        return [arm.label for arm in self.arms if arm.is_control]

    @property
    def comparisons(self) -> list[Comparison]:
        """Every comparison of the table: each arm with each control, on each task; the main one first."""
        found = [
            Comparison(method, baseline, task)
            for task in self.recipe.student_tasks
            for method, baseline in pairs(self.arms)
        ]
        return [self.main, *(comparison for comparison in found if comparison != self.main)]

    @property
    def family(self) -> list[Comparison]:
        """The comparisons that Holm's correction covers: all but the main one."""
        return self.comparisons[1:]

    @property
    def late(self) -> dict[str, list[Any]]:
        """Arms, seeds and a main comparison that were named when cells were already finished."""
        first = next((i for i, entry in enumerate(self.history) if entry["finished_cells"]), len(self.history))
        late = self.history[first:]
        known = self.history[first - 1] if first else {"arms": [], "seeds": [], "main": None}
        mains = [entry["main"] for entry in late if entry["main"] != known["main"]]
        return {
            "arms": [label for label in (late[-1]["arms"] if late else []) if label not in known["arms"]],
            "seeds": [seed for seed in (late[-1]["seeds"] if late else []) if seed not in known["seeds"]],
            "main": mains[-1:],
        }

    def recorded(self, finished_cells: int) -> Plan:
        """The plan with an entry in its history, if it changed since the last one."""
        entry = {
            "arms": [arm.label for arm in self.arms],
            "seeds": list(self.seeds),
            "main": asdict(self.main),
        }
        if self.history and all(self.history[-1][key] == value for key, value in entry.items()):
            return self
        entry |= {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "finished_cells": finished_cells}
        return replace(self, history=(*self.history, entry))

    def write(self, folder: Path) -> None:
        """Write comparison-plan.json."""
        recipe = self.recipe.model_dump(mode="json")
        plan = {
            "format_version": FORMAT_VERSION,
            "recipe_hash": hash_json(recipe),
            "main": asdict(self.main),
            "family": [asdict(comparison) for comparison in self.family],
            "arms": {
                arm.label: {"method": arm.method, "set": arm.changes, "is_single": arm.is_single} for arm in self.arms
            },
            "seeds": list(self.seeds),
            "train_rows": self.train_rows,
            "threads": asdict(self.threads),
            "history": list(self.history),
            "recipe": recipe,
        }
        write_json(folder / PLAN_FILE, plan)


def read_plan(folder: Path) -> Plan | None:
    """The plan of an earlier call, or None."""
    if not (folder / PLAN_FILE).is_file():
        return None
    raw = read_json(folder / PLAN_FILE)
    return Plan(
        recipe=build_recipe(raw["recipe"], origin=str(folder / PLAN_FILE)),
        arms=tuple(
            Arm(label, arm["method"], arm["set"], arm.get("is_single", False)) for label, arm in raw["arms"].items()
        ),
        seeds=tuple(raw["seeds"]),
        train_rows=raw["train_rows"],
        main=Comparison(**raw["main"]),
        threads=Threads(**raw["threads"]),
        history=tuple(raw["history"]),
    )


def main_comparison(wanted: str | None, arms: Sequence[Arm], tasks: Sequence[str]) -> Comparison:
    """The comparison that `--main METHOD:BASELINE[@TASK]` names.

    Without it: the first method that is no control (else kd, else none) on the recipe's first task, against `none`, or
    against `none@single` where it has a student per task.

    Raises:
        UserError: no such method, control or task.
    """
    known = pairs(arms)
    if wanted is None:
        first = next((arm for arm in arms if not arm.is_control), None)
        pair = (first.label, NONE_SINGLE if first.is_single else NONE) if first else known[0]
        return Comparison(*pair, tasks[0])
    pair_text, _, task = wanted.rpartition("@")
    if found := _pair(wanted, arms):
        task = ""
    else:
        found = _pair(pair_text, arms)
    if found is None:
        raise UserError(
            f"--main '{wanted}' was not understood. Expected METHOD:BASELINE or METHOD:BASELINE@TASK, the pair one of: "
            f"{', '.join(':'.join(pair) for pair in known)}."
        )
    if task and task not in tasks:
        raise UserError(f"--main '{wanted}': no task '{task}'. Choose one of: {', '.join(tasks)}.")
    return Comparison(*found, task or tasks[0])


def _pair(text: str, arms: Sequence[Arm]) -> tuple[str, str] | None:
    """The method and the control that a text joins by a colon, or None."""
    method, _, baseline = text.rpartition(":")
    pair = (_label(method, [arm.label for arm in arms]), baseline)
    return next((known for known in pairs(arms) if known == pair), None)


def _label(text: str, labels: Sequence[str]) -> str | None:
    """The arm that a text names, by its label or as --methods writes it."""
    if text in labels:
        return text
    try:
        label = label_in_text(text)
    except ValueError:
        return None
    return label if label in labels else None


def extended(old: Plan, new: Plan, *, finished_cells: int, rename_main: bool, main_given: bool) -> Plan:
    """An earlier plan with the arms and seeds that a new call adds.

    Args:
        old: of the folder.
        new: what the call asked for, its arms joined to the old ones.
        finished_cells: with any, the main comparison stays unless `rename_main`.
        rename_main: accept another main comparison after results.
        main_given: whether the call named the main comparison.

    Raises:
        UserError: another recipe, another number of labelled rows, or a main comparison that would be chosen
            after results were seen.
    """
    _check_same(old, new)
    main = new.main if main_given else old.main
    if main != old.main and finished_cells and not rename_main:
        raise UserError(
            f"the main comparison was named before the run as {old.main}; {finished_cells} trainings are done, and "
            f"{main} would be chosen after results. Leave --main out, or add --rename-main: the report then says so."
        )
    seeds = tuple(sorted({*old.seeds, *new.seeds}))
    return replace(old, arms=new.arms, seeds=seeds, main=main)


def _check_same(old: Plan, new: Plan) -> None:
    changed = [
        key
        for key, value in new.recipe.model_dump(mode="json").items()
        if value != old.recipe.model_dump(mode="json").get(key)
    ]
    if changed:
        raise UserError(
            f"the output folder holds a comparison of another recipe: {', '.join(changed)} changed. "
            "Give another folder with --output."
        )
    if new.train_rows != old.train_rows:
        raise UserError(
            f"the comparison in the output folder has --train-rows {old.train_rows}, this call {new.train_rows}. "
            "Give another folder with --output, and the same --stages to share what fits."
        )
