"""report.json: what a run measured, gathered from its finished stages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.distillation.training import DECISION_FILE, HISTORY_FILE
from compressor.evaluation.figures import FIGURES_FILE
from compressor.pipeline.learning import PREDICTIONS_FILE, load_data
from compressor.pipeline.proving import ARTIFACT_FIGURES_FILE, read_verdicts
from compressor.pipeline.stages import Stage, read_json
from compressor.pipeline.timing import read_latency
from serving.bundle import Bundle
from serving.doctor import examine
from serving.manifest import read_manifest

if TYPE_CHECKING:
    from compressor.pipeline.graph import Pipeline

FORMAT_VERSION = 1
_SUM_OF_TEACHERS = ("parameters", "encoder_parameters", "bytes")


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
        "artifacts": _artifacts(pipeline, bundle),
        "measurements": read_latency(pipeline.path(pipeline.benchmark)),
        "gates": read_verdicts(pipeline.path(pipeline.measurements)),
        "intervals_over": "examples",
        "environment": describe_environment(),
        "stages": [
            {"name": stage.name, "key": stage.key, "seconds": pipeline.store.seconds(stage)}
            for stage in pipeline.in_order()
        ],
    }
    report["examples"] = _examples(bundle)
    return report


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
        for name, data in load_data(pipeline.path(pipeline.data)).items()
    }


def _teacher(pipeline: Pipeline) -> dict[str, Any]:
    """One entry whatever the number of teachers: sizes are summed, figures and trainings stand per task."""
    tasks: dict[str, Any] = {}
    training: dict[str, Any] = {}
    sizes: dict[str, list[int | None]] = {name: [] for name in (*_SUM_OF_TEACHERS, "layers")}
    for task, stage in pipeline.teachers.items():
        figures = read_json(pipeline.path(pipeline.figures[f"teacher-{task}"]) / FIGURES_FILE)
        tasks |= figures["tasks"]
        for name, found in sizes.items():
            found.append(figures[name])
        if (curve := _training(pipeline.path(stage))) is not None:
            training[task] = curve
    settings = [pipeline.recipe.teacher_of(task) for task in pipeline.teachers]
    return {
        "kind": _kind(pipeline.path(next(iter(pipeline.teachers.values()))), has_curve=bool(training)),
        "model": ", ".join(dict.fromkeys(str(teacher.predictions or teacher.model) for teacher in settings)),
        "count": len(settings),
        **{name: None if None in sizes[name] else sum(filter(None, sizes[name])) for name in _SUM_OF_TEACHERS},
        "layers": sizes["layers"][0] if len(set(sizes["layers"])) == 1 else None,
        "tasks": tasks,
        "training": training,
    }


def _kind(folder: Path, *, has_curve: bool) -> str:
    if (folder / PREDICTIONS_FILE).is_file():
        return "predictions"
    return "trained" if has_curve else "checkpoint"


def _student(pipeline: Pipeline, role: str, stage: Stage) -> dict[str, Any]:
    figures = read_json(pipeline.path(pipeline.figures[role]) / FIGURES_FILE)
    return {
        "kind": "trained",
        "model": pipeline.recipe.student_model(),
        **figures,
        "training": {"": _training(pipeline.path(stage))},
    }


def _training(folder: Path) -> dict[str, Any] | None:
    if not (folder / HISTORY_FILE).is_file():
        return None
    return {**read_json(folder / HISTORY_FILE), **read_json(folder / DECISION_FILE)}


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
    """What the bundle answers to its own golden texts."""
    from serving.golden import read_golden

    texts = [tuple(text) for text in read_golden(bundle).texts[:5]]
    loaded = Bundle.load(bundle, check=False)
    answers = loaded.answers(loaded.run(loaded.encode(texts)))
    return [{"text": list(text), "answers": answer} for text, answer in zip(texts, answers, strict=True)]
