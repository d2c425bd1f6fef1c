"""What the stages from the student on do: figures, graphs, checks, bundle, latency; each writes one folder.

`compressor.pipeline.graph` says in which order and with which keys.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from compressor.data.batches import tokenise
from compressor.data.splits import TEST, VALIDATION, TaskData
from compressor.evaluation.ensembles import vote
from compressor.evaluation.figures import ensemble_size, read_logits, save_logits, task_figures, write_figures
from compressor.models.checkpoint import load_with_tokenizer
from compressor.models.inputs import describe_inputs, own_tokens
from compressor.models.predict import predict_logits
from compressor.models.teacher import teacher_logits
from compressor.pipeline.learning import PREDICTIONS_FILE
from compressor.pipeline.quantising import quantising_of
from compressor.pipeline.samples import sample_of
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import announce
from compressor.recipe import Recipe
from export import measure as measuring
from export.bundle import assemble_bundle
from export.candidate import Student, export_candidate
from export.gates import Gate, Limits, decide_gate
from export.golden_texts import golden_texts
from export.graph import DEFAULT_OPSET
from export.measure import measure, write_measurements
from export.sample import Sample
from export.statistics import paired_difference
from export.target.certify import certify_target
from export.target.compatibility import choose_opset
from serving.answers import decide
from serving.bundle import Bundle
from serving.golden import LARGE_SET, Source
from serving.manifest import read_manifest

ARTIFACT_FIGURES_FILE = "figures.json"
TEACHER_GATES_FILE = "teacher_gates.json"
BUNDLE_FOLDER = "bundle"
_NO_MODEL = {"parameters": None, "encoder_parameters": None, "bytes": None, "layers": None}


def measure_teacher(folder: Path, data: TaskData, teachers: Sequence[Path], max_length: int) -> None:
    """Logits and figures of one task's teacher: a checkpoint, several that answer together, or stored predictions."""
    tasks = {data.task.name: data}
    if (teachers[0] / PREDICTIONS_FILE).is_file():
        write_figures(folder, tasks, lambda _data, split: np.load(teachers[0] / f"{split}.npy"), _NO_MODEL)
        return

    def ask(task: TaskData, split: str) -> np.ndarray:
        texts = task.splits[split].texts
        answers = [
            teacher_logits(teacher, texts, task.task, max_length=max_length, label=f"teacher on {split}")
            for teacher in teachers
        ]
        return vote(answers, task.task.type)

    write_figures(folder, tasks, ask, ensemble_size(teachers))


def measure_students(folder: Path, data: Mapping[str, TaskData], students: Sequence[Path], max_length: int) -> None:
    """Logits and figures of a student or control, which answers every task, or of several that vote."""
    loaded = [load_with_tokenizer(student) for student in students]

    def ask(task: TaskData, split: str) -> np.ndarray:
        answers = []
        for model, tokenizer in loaded:
            tokens = tokenise(tokenizer, task.splits[split].texts, max_length)
            pad_id = int(tokenizer.pad_token_id)
            answers.append(predict_logits(model, tokens, task.task.name, pad_id=pad_id))
        return vote(answers, task.task.type)

    write_figures(folder, data, ask, ensemble_size(students))


def export_student(folder: Path, student: Path, data: Mapping[str, TaskData], recipe: Recipe) -> None:
    """Graphs of the student in every precision, with its tokenizer."""
    model, tokenizer = load_with_tokenizer(student)
    columns = next(iter(data.values())).text_columns
    exported = Student(
        model=model,
        config=model.config,
        tokenizer_folder=student,
        tasks=model.tasks,
        inputs=describe_inputs(model, tokenizer, max_length=recipe.max_length, text_columns=columns),
    )
    candidate = export_candidate(
        exported,
        folder,
        precisions=recipe.export.precisions,
        opset=choose_opset(recipe.export.target_runtime, recipe.export.opset, DEFAULT_OPSET),
        quantising=quantising_of(recipe, data),
    )
    for note in candidate.notes:
        announce(f"  {note}")


def measure_candidate(
    folder: Path,
    inputs: Mapping[str, Path],
    data: Mapping[str, TaskData],
    *,
    recipe: Recipe,
) -> None:
    """Parity, metrics and gates of every graph on validation, and the gate of the student against its teachers.

    Args:
        folder: to write.
        inputs: folders of `candidate` and `student` and, where the teachers' gate is set, of the figures of the
            student and of every `teacher-<task>`.
        data: the tasks.
        recipe: its limits and its choice of golden texts.
    """
    model, tokenizer = load_with_tokenizer(inputs["student"])
    limits = Limits(
        export_logit_difference=recipe.gates.export_logit_difference,
        batch_invariance=recipe.gates.batch_invariance,
        quantisation_metric_drop=recipe.gates.quantisation_metric_drop,
        worst_slice_drop=recipe.gates.worst_slice_drop,
        allow_inconclusive=recipe.gates.allow_inconclusive,
    )
    texts: tuple[Source, list[tuple[str, ...]]] | None = None
    if recipe.export.golden == "validation":
        texts = ("validation", _real_texts(data))
    measured = measure(
        inputs["candidate"],
        model,
        validation_samples(data, fits_temperature=recipe.export.temperature == "fit"),
        limits=limits,
        golden=texts,
        tokenise=own_tokens(model, tokenizer, recipe.max_length),
    )
    if (runtime := recipe.export.target_runtime) is not None:
        measured = certify_target(inputs["candidate"], measured, runtime)
    write_measurements(folder, measured)
    limit = recipe.gates.teacher_metric_drop
    gates = list(_teacher_gates(data, inputs, limit)) if limit is not None else []
    write_json(folder / TEACHER_GATES_FILE, msgspec.to_builtins(gates))


def validation_samples(data: Mapping[str, TaskData], *, fits_temperature: bool = True) -> dict[str, Sample]:
    """The labelled validation texts of every task, with the metric that the task is judged by."""
    samples = {name: sample_of(task, VALIDATION) for name, task in data.items()}
    return {name: replace(sample, fits_temperature=fits_temperature) for name, sample in samples.items()}


def _real_texts(data: Mapping[str, TaskData]) -> list[tuple[str, ...]]:
    """Validation texts of every length, filled up with made-up ones where there are few."""
    texts = [text for task in data.values() for text in task.splits[VALIDATION].texts]
    picks = np.linspace(0, len(texts) - 1, num=min(LARGE_SET, len(texts))).round().astype(int)
    columns = next(iter(data.values())).text_columns
    return [*(texts[pick] for pick in picks), *golden_texts(columns)[: LARGE_SET - len(picks)]]


def _teacher_gates(data: Mapping[str, TaskData], inputs: Mapping[str, Path], limit: float) -> Iterator[Gate]:
    for name, task in data.items():
        if f"figures-teacher-{name}" not in inputs:  # a task without teacher
            continue
        sample = sample_of(task, VALIDATION)
        student = decide(read_logits(inputs["figures-student"], name, VALIDATION), task.task)
        teacher = decide(read_logits(inputs[f"figures-teacher-{name}"], name, VALIDATION), task.task)
        drop, low, high = paired_difference(sample.metric, sample.labels, student, teacher)
        yield decide_gate("teacher_metric_drop", f"student {name}", drop, limit=limit, low=low, high=high)


def read_verdicts(folder: Path) -> list[dict[str, Any]]:
    """All gates of `measure_candidate` as JSON values, with `artifact` and `task` apart."""
    gates = measuring.read_measurements(folder).gates
    teacher_gates = msgspec.convert(read_json(folder / TEACHER_GATES_FILE), list[Gate])
    verdicts = []
    for gate in (*gates, *teacher_gates):
        artifact, _, task = gate.subject.partition(" ")
        verdicts.append({**msgspec.to_builtins(gate), "artifact": artifact, "task": task})
    return verdicts


def make_bundle(folder: Path, candidate: Path, measurements: Path, *, name: str, provenance: Mapping[str, Any]) -> None:
    """Join graphs and measurements to the folder that is served."""
    target = folder / BUNDLE_FOLDER
    if target.exists():  # left by an interrupted call
        shutil.rmtree(target)
    measured = measuring.read_measurements(measurements)
    version = measurements.name.rpartition("-")[2]
    assemble_bundle(candidate, measured, target, name=name, version=version, provenance=provenance)


def measure_artifacts(folder: Path, data: Mapping[str, TaskData], bundle: Path) -> None:
    """Test logits (`<precision>/<task>.test.npy`) and figures of every artifact, asked through the code that serves."""
    figures: dict[str, dict[str, Any]] = {}
    for artifact in read_manifest(bundle).artifacts:
        own = folder / artifact.precision
        own.mkdir(exist_ok=True)
        loaded = Bundle.load(bundle, artifact.precision, check=False)
        figures[artifact.precision] = {}
        for name, task in data.items():
            logits = loaded.run(loaded.encode(task.splits[TEST].texts), [name])[name]
            save_logits(own, name, TEST, logits)
            figures[artifact.precision][name] = task_figures(task, logits)
    write_json(folder / ARTIFACT_FIGURES_FILE, figures)
