"""Exporting and verifying models that were trained elsewhere, on labelled texts that are given by hand."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from compressor.data.loading import load_task
from compressor.data.splits import TEST, TRAIN, VALIDATION
from compressor.models.checkpoint import load_with_tokenizer
from compressor.models.inputs import describe_inputs, own_tokens
from compressor.models.resolve import checkpoint_fingerprint
from compressor.models.teacher import import_teacher
from compressor.pipeline.labelled import LabelledTexts, labelled_sample, labelled_samples
from compressor.pipeline.learning import load_some
from compressor.pipeline.origin import origin_of
from compressor.pipeline.provenance import recorded_versions, sample_facts
from compressor.pipeline.proving import validation_samples
from compressor.pipeline.quantising import explain_candidate
from compressor.pipeline.run import open_existing
from compressor.pipeline.stages import hash_json
from compressor.progress import announce
from compressor.recipe import GateSettings, TaskSettings, TeacherSettings
from export.bundle import assemble_bundle
from export.candidate import Student, export_candidate
from export.gates import Gate, Limits
from export.graph import DEFAULT_OPSET
from export.measure import measure
from export.quantise.material import Material, QuantiseSettings, Quantising
from export.target.certify import certify_target
from export.target.compatibility import Target, choose_opset
from export.verify import Claim, verify
from serving.errors import UserError
from serving.manifest import read_manifest

_TASK = "task"
CALIBRATION_TEXTS = 256


@dataclass(frozen=True)
class ForeignModel:
    """A checkpoint that was trained elsewhere.

    Attributes:
        model: checkpoint id, see `compressor.models.resolve`.
        max_length: tokens per text.
        labels: names of its outputs in order, where its config has none.
        precisions: artifacts, as in a recipe's `export.precisions`.
        target: the opset and runtime that the bundle is for.
    """

    model: str
    max_length: int
    labels: list[str] | None = None
    precisions: tuple[str, ...] = ("fp32", "int8")
    target: Target = field(default_factory=Target)


def export_model(
    source: ForeignModel, task: TaskSettings, output: Path, *, allow_inconclusive: bool = False, explain: bool = False
) -> tuple[Gate, ...]:
    """Export any sequence-classification checkpoint to a bundle, measured on labelled texts.

    Args:
        source: the model.
        task: where the labelled texts are.
        output: gets `checkpoint/`, `candidate/` and `bundle/`; must not hold a bundle yet.
        allow_inconclusive: whether an undecided gate lets an artifact pass.
        explain: also write `explanations.json`: what quantising each layer costs.

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
    limits = GateSettings()
    sample = labelled_sample(data, spec)
    calibration = labelled_sample(data, spec, (TRAIN, VALIDATION, TEST), "calibrating").first(CALIBRATION_TEXTS)
    quantising = Quantising(
        QuantiseSettings(
            exclude="auto", metric_drop=limits.quantisation_metric_drop, allow_inconclusive=allow_inconclusive
        ),
        Material({spec.name: calibration}, {spec.name: sample}),
    )
    opset = choose_opset(source.target.runtime, source.target.opset, DEFAULT_OPSET)
    made = export_candidate(student, candidate, precisions=source.precisions, opset=opset, quantising=quantising)
    for note in made.notes:
        announce(f"  {note}")
    measured = measure(
        candidate,
        loaded,
        {_TASK: sample},
        limits=Limits(
            export_logit_difference=limits.export_logit_difference,
            batch_invariance=limits.batch_invariance,
            quantisation_metric_drop=limits.quantisation_metric_drop,
            allow_inconclusive=allow_inconclusive,
        ),
        tokenise=own_tokens(loaded, tokenizer, source.max_length),
    )
    if source.target.runtime is not None:
        measured = certify_target(candidate, measured, source.target.runtime)
    fingerprint = checkpoint_fingerprint(source.model)
    aside = output / "bundle.partial"  # renamed when it is whole: an interrupted call can be given again
    shutil.rmtree(aside, ignore_errors=True)
    assemble_bundle(
        candidate,
        measured,
        aside,
        name=Path(source.model).name,
        version=hash_json(fingerprint)[:12],
        provenance={
            "model": source.model,
            "models": {"checkpoint": fingerprint},
            "data": sample_facts({_TASK: sample}, {_TASK: task.data}),
            "versions": recorded_versions(),
        },
    )
    if explain:
        explain_candidate(output, candidate, quantising)
    aside.rename(bundle)
    return measured.gates


def verify_bundle(bundle: Path, *, run: Path | None, given: LabelledTexts | None) -> list[Claim]:
    """Check a bundle's claims, its metrics on a run's validation texts or on given data.

    Args:
        bundle: the folder.
        run: the run that made it.
        given: labelled texts of one or several of its tasks.
    """
    manifest = read_manifest(bundle)
    if run is not None:
        found = open_existing(run, [], None).pipeline
        if not found.store.is_done(found.data):
            raise UserError(f"the run '{run}' has no finished data stage. Finish it: compressor run {run}")
        samples = validation_samples(load_some(found.path(found.data), found.recipe.student_tasks))
        return verify(bundle, samples, origin=origin_of(found, manifest))
    return verify(bundle, labelled_samples(manifest, given) if given else None)


def as_settings(data: str, text: list[str], label: str | None) -> TaskSettings:
    """Task settings from the options `--data`, `--text` and `--label`."""
    return TaskSettings.model_validate({"data": data, "text": text or None, "label": label})
