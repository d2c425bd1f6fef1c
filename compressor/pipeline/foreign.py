"""Exporting and verifying models that were trained elsewhere, on labelled texts that are given by hand."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from compressor.data.loading import load_task
from compressor.data.splits import TEST, TRAIN, VALIDATION, TaskData
from compressor.models.checkpoint import load_with_tokenizer
from compressor.models.inputs import describe_inputs
from compressor.models.resolve import checkpoint_fingerprint
from compressor.models.teacher import import_teacher
from compressor.pipeline.learning import load_data
from compressor.pipeline.proving import validation_samples
from compressor.pipeline.run import open_existing
from compressor.pipeline.stages import hash_json
from compressor.progress import announce
from compressor.recipe import GateSettings, TaskSettings, TeacherSettings
from compressor.tasks.registry import TASKS
from export.bundle import assemble_bundle
from export.candidate import Student, export_candidate
from export.gates import Gate
from export.measure import Limits, Sample, measure
from export.verify import Claim, verify
from serving.errors import UserError
from serving.manifest import TaskSpec, read_manifest

_TASK = "task"


@dataclass(frozen=True)
class ForeignModel:
    """A checkpoint that was trained elsewhere.

    Attributes:
        model: checkpoint id, see `compressor.models.resolve`.
        max_length: tokens per text.
        labels: names of its outputs in order, where its config has none.
    """

    model: str
    max_length: int
    labels: list[str] | None = None


def export_model(
    source: ForeignModel, task: TaskSettings, output: Path, *, allow_inconclusive: bool = False
) -> tuple[Gate, ...]:
    """Export any sequence-classification checkpoint to a bundle, measured on labelled texts.

    Args:
        source: the model.
        task: where the labelled texts are.
        output: gets `checkpoint/`, `candidate/` and `bundle/`; must not hold a bundle yet.
        allow_inconclusive: whether an undecided gate lets an artifact pass.

    Returns:
        The gates, whatever their verdict; everything is written.
    """
    bundle = output / "bundle"
    if bundle.exists():
        raise UserError(f"'{bundle}' exists. Give another folder with --output, or delete it.")
    data = load_task(_TASK, task, output="logits")
    checkpoint = output / "checkpoint"
    import_teacher(checkpoint, TeacherSettings(model=source.model, train=False, labels=source.labels), data.task)
    loaded, tokenizer = load_with_tokenizer(checkpoint)
    spec = loaded.tasks[0]
    candidate = output / "candidate"
    student = Student(
        model=loaded,
        config=loaded.config,
        tokenizer_folder=checkpoint,
        tasks=(spec,),
        inputs=describe_inputs(loaded, tokenizer, max_length=source.max_length, text_columns=data.text_columns),
    )
    export_candidate(student, candidate)
    limits = GateSettings()
    measured = measure(
        candidate,
        loaded,
        {_TASK: labelled_sample(data, spec)},
        limits=Limits(
            export_logit_difference=limits.export_logit_difference,
            quantisation_metric_drop=limits.quantisation_metric_drop,
            allow_inconclusive=allow_inconclusive,
        ),
    )
    fingerprint = checkpoint_fingerprint(source.model)
    aside = output / "bundle.partial"  # renamed when it is whole: an interrupted call can be given again
    shutil.rmtree(aside, ignore_errors=True)
    assemble_bundle(
        candidate,
        measured,
        aside,
        name=Path(source.model).name,
        version=hash_json(fingerprint)[:12],
        provenance={"model": source.model, "fingerprint": fingerprint, "data": task.model_dump(mode="json")},
    )
    aside.rename(bundle)
    return measured.gates


def labelled_sample(data: TaskData, spec: TaskSpec) -> Sample:
    """The rows to measure on, labels in the model's order: validation, else test, else all of a single file."""
    split = next(name for name in (VALIDATION, TEST, TRAIN) if name in data.splits)
    rows = data.splits[split]
    if rows.labels is None:
        raise RuntimeError(f"the {split} split has no labels")
    announce(f"measuring on {len(rows)} rows ({split})")
    return Sample(rows.texts, _in_order_of(rows.labels, data.task, spec), TASKS[spec.type].metrics[spec.metric])


def verify_bundle(
    bundle: Path, *, run: Path | None, data: str | None, text: list[str], label: str | None
) -> list[Claim]:
    """Check a bundle's claims, its metrics on a run's validation texts or on given data.

    Args:
        bundle: the folder.
        run: the run that made it.
        data: labelled texts, for a bundle of one task.
        text: columns of `data`.
        label: column of `data`.
    """
    tasks = read_manifest(bundle).tasks
    if run is not None:
        found = open_existing(run, [], None).pipeline
        if not found.store.is_done(found.data):
            raise UserError(f"the run '{run}' has no finished data stage. Finish it: compressor run {run}")
        return verify(bundle, validation_samples(load_data(found.path(found.data))))
    if data is None:
        return verify(bundle)
    if len(tasks) != 1:
        raise UserError(
            f"the bundle answers {len(tasks)} tasks and --data holds the labels of one. Give --run instead."
        )
    loaded = load_task(tasks[0].name, as_settings(data, text, label), output=tasks[0].output)
    unknown = [name for name in loaded.task.labels if name not in tasks[0].labels]
    if unknown:
        raise UserError(
            f"the data have the label {unknown[0]!r}, which the bundle does not know ({', '.join(tasks[0].labels)})."
        )
    return verify(bundle, {tasks[0].name: labelled_sample(loaded, tasks[0])})


def _in_order_of(labels: np.ndarray, data: TaskSpec, model: TaskSpec) -> np.ndarray:
    """Labels encoded by the data's order, encoded by the model's."""
    if data.type == "regression":
        return labels
    places = np.array([model.labels.index(name) for name in data.labels])
    if data.type == "classification":
        moved: np.ndarray = places[labels]
        return moved
    matrix = np.zeros((len(labels), len(model.labels)), dtype=labels.dtype)
    matrix[:, places] = labels
    return matrix


def as_settings(data: str, text: list[str], label: str | None) -> TaskSettings:
    """Task settings from the options `--data`, `--text` and `--label`."""
    return TaskSettings.model_validate({"data": data, "text": text or None, "label": label})


def describe(gate: Gate) -> str:
    """One line on a gate."""
    limits = msgspec.to_builtins(gate)
    return "{name} of {subject}: {verdict}, measured {measured:.3g} [{low:.3g}, {high:.3g}], limit {limit:.3g}".format(
        **limits
    )
