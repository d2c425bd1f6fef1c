"""The ladder and the invariance of a bundle as rows of text, for whoever prints them: card, report, terminal."""

from __future__ import annotations

from serving.claims import Interval, Invariance, Step
from serving.manifest import Manifest


def ladder_figures(manifest: Manifest) -> list[dict[str, str]]:
    """One row per task and step, from torch downwards, each step once: where a difference enters."""
    steps = {
        (task.name, step.rung): step
        for task in manifest.tasks
        for artifact in manifest.artifacts
        for step in artifact.ladder.get(task.name, ())
    }
    return [_step(task, step) for (task, _), step in steps.items()]


def invariance_figures(manifest: Manifest) -> list[dict[str, str]]:
    """One row per artifact and task: what company, place and padding change."""
    return [
        _invariance(artifact.precision, task.name, found)
        for artifact in manifest.artifacts
        for task in manifest.tasks
        if (found := artifact.invariance.get(task.name)) is not None
    ]


def _step(task: str, step: Step) -> dict[str, str]:
    return {
        "task": task,
        "step": f"{step.made_from} to {step.rung}",
        "largest logit difference": f"{step.max_difference:.3g}",
        "mean": f"{step.mean_difference:.3g}",
        "same answers": f"{step.agreement:.1%}",
        "metric lost": _drop(step.metric_drop),
    }


def _drop(drop: Interval | None) -> str:
    if drop is None:
        return "undefined"
    return f"{drop.metric} {drop.value:.4f} ({drop.low:.4f} to {drop.high:.4f})"


def _invariance(precision: str, task: str, found: Invariance) -> dict[str, str]:
    return {
        "artifact": precision,
        "task": task,
        "largest logit difference in company": f"{found.max_difference:.3g}",
        "answers changed": f"{found.answers_changed} of {found.texts}",
    }
