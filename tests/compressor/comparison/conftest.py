"""A comparison of six methods over five seeds as a finished call writes it, with made-up answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compressor.comparison.answers import Scores
from compressor.comparison.arms import Arm
from compressor.comparison.plan import Comparison, Plan, Threads
from compressor.comparison.results import judged, protocol, spread
from compressor.comparison.statistics import resampled_scores
from compressor.distillation.presets import parse_method_text
from compressor.recipe_file import build_recipe
from compressor.tasks.classification import accuracy

EFFECTS = {"none": 0.0, "kd": 0.05, "swa": 0.003, "sda(k=all)": 0.02, "kd+swa": 0.06, "vote": 0.03}
METHODS = {**dict.fromkeys(EFFECTS, ""), "sda(k=all)": "sda:k=all"}
RECIPE: dict[str, Any] = {
    "name": "supportdesk",
    "tasks": {"intent": {"data": "supportdesk", "text": "text", "label": "intent"}},
}


def make_plan(arms: dict[str, str], *, seeds: int = 5, tasks: tuple[str, ...] = ("intent",), main: str = "swa") -> Plan:
    """A plan of arms, given as label -> method text (empty: the label itself)."""
    recipe = build_recipe({**RECIPE, "tasks": dict.fromkeys(tasks, RECIPE["tasks"]["intent"])})
    found = tuple(Arm(label, parse_method_text(text or label)) for label, text in arms.items())
    return Plan(recipe, found, tuple(range(seeds)), None, Comparison(main, "none", tasks[0]), Threads(1, 2))


def make_scores(arms: dict[str, float], seeds: int, *, rows: int = 400, seed: int = 0) -> dict[str, Scores]:
    """Scores of arms that are right with a chance of 0.65 plus their effect, plus what seed and example do."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(rows, dtype=np.int64)
    examples = rng.uniform(-0.25, 0.25, size=(1, rows))
    shared = rng.normal(0, 0.02, size=(seeds, 1))
    scores = {}
    for label, effect in arms.items():
        chance = 0.65 + effect + examples + shared + rng.normal(0, 0.008, size=(seeds, 1))
        answers = list((rng.random((seeds, rows)) > chance).astype(np.int64))
        values = np.array([accuracy(labels, answer) for answer in answers])
        resampled = resampled_scores(accuracy, labels, answers, samples=200)
        scores[label] = Scores(tuple(range(seeds)), values, resampled)
    return scores


def make_result(plan: Plan, scores: dict[str, dict[str, Scores]]) -> dict[str, Any]:
    """comparison.json of a plan and its scores per task and arm."""
    return {
        "format_version": 1,
        "name": plan.recipe.name,
        "created": "2026-03-02T14:07:31+0100",
        "tasks": {
            task: {"type": "classification", "metric": "accuracy", "rows": {"train": 1726, "test": 400}}
            for task in plan.recipe.tasks
        },
        "seeds": list(plan.seeds),
        "train_rows": plan.train_rows,
        "arms": [
            {
                "label": arm.label,
                "method": arm.method,
                "set": arm.changes,
                "is_control": arm.is_control,
                "is_single": arm.is_single,
                "seeds": list(plan.seeds),
                "tasks": {task: spread(found[arm.label]) for task, found in scores.items()},
                "runs": 3.0 if arm.label == "vote" else 1.0,
                "steps": 1620.0 if arm.label == "vote" else 540.0,
                "epochs": 15.0 if arm.label == "vote" else 5.0,
                "seconds": 190.0 if arm.label == "vote" else 61.5,
                "parameters": 3 * 17_400_000.0 if arm.label == "vote" else 17_400_000.0,
                "bytes": 3 * 69_600_000.0 if arm.label == "vote" else 69_600_000.0,
                "added": {},
            }
            for arm in plan.arms
        ],
        "comparisons": judged(plan, scores),
        "teachers": [
            {
                "task": task,
                "trained_with": [],
                "folds": None,
                "stage": "teacher",
                "seconds": 151.0,
                "value": 0.746,
                "low": 0.715,
                "high": 0.776,
            }
            for task in plan.recipe.tasks
        ],
        "protocol": protocol(plan, 2),
        "failed": [],
        "recipe_hash": "0" * 64,
        "recipe": plan.recipe.model_dump(mode="json"),
        "environment": {"cpu_model": "Example CPU", "available_cpus": 2, "versions": {"torch": "2.13.0"}},
    }


@pytest.fixture
def result() -> dict[str, Any]:
    """Six methods on one task."""
    return make_result(make_plan(METHODS), {"intent": make_scores(EFFECTS, 5)})


@pytest.fixture
def several_tasks() -> dict[str, Any]:
    """Three methods on two tasks, over three seeds."""
    effects = {"none": 0.0, "kd": 0.02, "sda(k=all,weight=1.5)": 0.0}
    arms = {**dict.fromkeys(effects, ""), "sda(k=all,weight=1.5)": "sda:k=all:weight=1.5"}
    plan = make_plan(arms, seeds=3, tasks=("intent", "domain"), main="kd")
    return make_result(
        plan, {task: make_scores(effects, 3, seed=place) for place, task in enumerate(("intent", "domain"))}
    )
