"""report.json: what a run measured, gathered from its finished stages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from compressor.evaluation.figures import FIGURES_FILE, SUMMED_SIZES
from compressor.pipeline.augmentation_facts import augmentation_facts
from compressor.pipeline.confidence import read_confidence
from compressor.pipeline.flatness import FLATNESS_FILE
from compressor.pipeline.joining import training_facts
from compressor.pipeline.ladder import read_ladder
from compressor.pipeline.learning import PREDICTIONS_FILE, WARM_START_FILE, load_some
from compressor.pipeline.proving import ARTIFACT_FIGURES_FILE, read_verdicts
from compressor.pipeline.stages import Stage, read_json
from compressor.pipeline.timing import read_circumstances, read_latency
from compressor.pipeline.waterfall import read_waterfall
from compressor.recipe import TeacherSettings
from serving.bundle import Bundle
from serving.doctor import examine
from serving.manifest import read_manifest

if TYPE_CHECKING:
    from compressor.pipeline.graph import Pipeline

FORMAT_VERSION = 1


def describe_environment() -> dict[str, Any]:
    """Machine and versions."""
    findings = examine()
    return {**findings["host"], "versions": findings["versions"], **findings["devices"]}


def assemble_report(pipeline: Pipeline) -> dict[str, Any]:
    """Gather a report from the stages of a finished pipeline.

    Args:
        pipeline: all of whose stages are done.

    Returns:
        JSON values; `docs/report.md` describes the fields.
    """
    recipe = pipeline.recipe
    bundle = pipeline.bundle_folder
    report: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "name": recipe.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "recipe": recipe.model_dump(mode="json"),
        "tasks": _tasks(pipeline),
        "teacher": _teacher(pipeline),
        "student": {**_student(pipeline, "student", pipeline.student), "method": recipe.method},
        "controls": {name: _student(pipeline, f"control-{name}", stage) for name, stage in pipeline.controls.items()},
        "warm_start": _warm_start(pipeline),
        "augmentation": augmentation_facts(pipeline),
        "flatness": read_json(pipeline.path(pipeline.flatness) / FLATNESS_FILE) if pipeline.flatness else None,
        "artifacts": _artifacts(pipeline, bundle),
        **timing_facts(pipeline),
        "ladder": read_ladder(pipeline.path(pipeline.measurements)),
        "gates": read_verdicts(pipeline.path(pipeline.measurements)),
        **read_confidence(pipeline.path(pipeline.confidence)),
        "intervals_over": "examples",
        "environment": describe_environment(),
        "stages": [
            {"name": stage.name, "key": stage.key, "seconds": pipeline.store.seconds(stage)}
            for stage in pipeline.in_order()
        ],
    }
    report["examples"] = _examples(bundle)
    return report


def timing_facts(pipeline: Pipeline) -> dict[str, Any]:
    """What was timed, and the circumstances."""
    benchmark = pipeline.path(pipeline.benchmark)
    return {
        "measurements": read_latency(benchmark),
        "timing": read_circumstances(benchmark),
        "waterfall": read_waterfall(pipeline.path(pipeline.waterfall)) if pipeline.waterfall else None,
    }


def _tasks(pipeline: Pipeline) -> dict[str, Any]:
    return {
        name: {
            "type": data.task.type,
            "metric": data.task.metric,
            "labels": list(data.task.labels),
            "rows": {split: len(rows) for split, rows in data.splits.items()},
            "dropped": data.dropped,
            "notices": data.notices,
            "text_columns": list(data.text_columns),
            "sources": data.sources,
        }
        for name, data in load_some(pipeline.path(pipeline.data), pipeline.recipe.student_tasks).items()
    }


def _teacher(pipeline: Pipeline) -> dict[str, Any] | None:
    """One entry for all teachers, None where no task has one: sizes are summed, figures stand per task."""
    groups = pipeline.teacher_groups
    if not groups:
        return None
    settings = [pipeline.recipe.teacher_of(group[0]) for group in groups]
    facts = {group: [training_facts(pipeline.path(stage)) for stage in stages] for group, stages in groups.items()}
    training = {name: one for group, found in facts.items() for name, one in _numbered(", ".join(group), found).items()}
    return {
        "kind": _kind(pipeline, has_curve=bool(training)),
        "model": ", ".join(dict.fromkeys(name for teacher in settings for name in _models(teacher))),
        "count": len(settings),
        "members": max(teacher.num_members for teacher in settings),
        "multitask": any(len(group) > 1 for group in groups),
        "folds": max((teacher.folds for teacher in settings if teacher.folds), default=None),
        **_sizes([_figures(pipeline, f"teacher-{task}") for task in pipeline.distinct_teachers]),
        "tasks": {task: _figures(pipeline, f"teacher-{task}")["tasks"][task] for task in pipeline.teachers},
        "training": training,
        "timed": _what_is_timed(settings),
    }


def _figures(pipeline: Pipeline, role: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(pipeline.path(pipeline.figures[role]) / FIGURES_FILE)
    return found


def _sizes(teachers: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    """Sums over the teachers, None where one has no model; the number of layers where all have the same."""
    sizes = {name: [facts[name] for facts in teachers] for name in (*SUMMED_SIZES, "layers")}
    return {
        **{name: None if None in sizes[name] else sum(sizes[name]) for name in SUMMED_SIZES},
        "layers": sizes["layers"][0] if len(set(sizes["layers"])) == 1 else None,
    }


def _models(teacher: TeacherSettings) -> list[str]:
    return teacher.models or [str(teacher.predictions)]


def _kind(pipeline: Pipeline, *, has_curve: bool) -> str:
    if any(len(members) > 1 for members in pipeline.teacher_groups.values()):
        return "ensemble"
    first = pipeline.path(next(iter(pipeline.teachers.values())))
    if (first / PREDICTIONS_FILE).is_file():
        return "predictions"
    return "trained" if has_curve else "checkpoint"


def _what_is_timed(settings: Sequence[TeacherSettings]) -> str | None:
    """What the teacher's latency stands for, where that is less than the teacher."""
    members = max(teacher.num_members for teacher in settings)
    if members == 1:
        return None
    return f"one member of the ensemble: a text answered by all of them takes about {members} times as long"


def _student(pipeline: Pipeline, role: str, stage: Stage) -> dict[str, Any]:
    figures = _figures(pipeline, role)
    facts = training_facts(pipeline.path(stage))
    runs = [] if facts is None else facts.get("runs", [])
    return {
        "kind": "average" if runs else "trained",
        "model": pipeline.recipe.student_model(),
        **figures,
        "runs": [{name: run[name] for name in ("folder", "order_seed")} for run in runs],
        "training": _numbered("", runs or [facts]),
    }


def _warm_start(pipeline: Pipeline) -> dict[str, Any] | None:
    """Which heads all students of the run, controls included, took from an earlier student; None without one."""
    paths = [pipeline.path(member) / WARM_START_FILE for member in pipeline.members[:1]]
    return next((read_json(path) for path in paths if path.is_file()), None)


def _numbered(name: str, trainings: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """The trainings that took place: one by its name, several as `run 1`, `run 2`, ... of it."""
    if len(trainings) == 1:
        return {} if trainings[0] is None else {name: trainings[0]}
    of = f"{name}, " if name else ""
    return {f"{of}run {place}": facts for place, facts in enumerate(trainings, start=1) if facts is not None}


def _artifacts(pipeline: Pipeline, bundle: Path) -> list[dict[str, Any]]:
    manifest = read_manifest(bundle)
    figures = read_json(pipeline.path(pipeline.artifact_figures) / ARTIFACT_FIGURES_FILE)
    return [
        {
            "precision": artifact.precision,
            "file": artifact.file,
            "bytes": artifact.bytes,
            "tasks": figures[artifact.precision],
            "parity": {task: _parity(parity) for task, parity in artifact.parity.items()},
            "quantised_nodes": artifact.quantised_nodes,
            "invariance": msgspec.to_builtins(artifact.invariance),
            "batch_difference": artifact.batch_difference,
            "batch_invariant": artifact.batch_invariant,
            "passed": artifact.passed,
            "is_default": artifact.precision == manifest.default_artifact,
        }
        for artifact in manifest.artifacts
    ]


def _parity(parity: Any) -> dict[str, Any]:
    names = ("max_difference", "mean_difference", "agreement", "texts")
    return {name: getattr(parity, name) for name in names}


def _examples(bundle: Path) -> list[dict[str, Any]]:
    """What the bundle answers to its own golden texts; nothing where no artifact passed its gates."""
    from serving.golden import read_golden

    if read_manifest(bundle).default_artifact is None:
        return []
    texts = [tuple(text) for text in read_golden(bundle).texts[:5]]
    loaded = Bundle.load(bundle, check=False)
    answers = loaded.answers(loaded.run(loaded.encode(texts)))
    return [{"text": list(text), "answers": answer} for text, answer in zip(texts, answers, strict=True)]
