"""What a candidate's graphs are worth: parity, metrics, gates, batch difference, latency, golden logits.

Reads a candidate and writes JSON only. Everything is measured through the code that serves, on validation
texts; the test split is not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray
from torch import nn

from export.benchmark import time_alone
from export.candidate import Candidate, Graph, read_candidate
from export.gates import Gate, decide_gate, has_passed
from export.golden_texts import golden_texts
from export.parity import INVARIANCE_LIMIT, compare, measure_batch_difference
from export.runners import DEFAULT_BATCH_SIZE, Runner, eval_mode, run_texts, session_runner, torch_runner
from export.statistics import Metric, bootstrap_interval, paired_difference
from serving.answers import decide
from serving.errors import UserError
from serving.golden import Golden, Source, record_golden
from serving.host import cpu_features
from serving.manifest import Interval, Parity, TaskSpec
from serving.model import OnnxModel
from serving.session import create_session
from serving.tokenise import TOKENIZER_FILE, TextEncoder

MEASUREMENTS_FILE = "measurements.json"
MIN_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Sample:
    """Labelled texts of one task.

    Attributes:
        texts: each of one string, or two for pairs.
        labels: [rows, ...], in the form that the metric takes (original units for a regression).
        metric: metric(labels, decisions), larger is better; decisions as `serving.answers.decide` gives them.
    """

    texts: Sequence[tuple[str, ...]]
    labels: NDArray[Any]
    metric: Metric


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The gates of the recipe that concern artifacts; None switches one off.

    Attributes:
        export_logit_difference: fp32 graph against torch, per logit.
        quantisation_metric_drop: other precisions against the fp32 student, absolute, paired.
        allow_inconclusive: whether a gate that the sample cannot decide lets the artifact pass.
    """

    export_logit_difference: float | None = 1e-4
    quantisation_metric_drop: float | None = 0.01
    allow_inconclusive: bool = False


class ArtifactMeasurements(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one graph; the fields are those of `serving.manifest.Artifact`, and its gates.

    Attributes:
        precision: of the graph.
        metrics: per task, on the sample.
        parity: per task, against the torch student.
        gates: of this artifact.
        batch_difference: largest logit difference of a text alone and among others.
        tolerance: allowed when golden examples are replayed.
        passed: whether its gates passed.
    """

    precision: str
    metrics: dict[str, Interval]
    parity: dict[str, Parity]
    gates: tuple[Gate, ...]
    batch_difference: float
    tolerance: float
    passed: bool

    @property
    def is_batch_invariant(self) -> bool:
        """Whether neighbours and padding leave the logits alone."""
        return self.batch_difference <= INVARIANCE_LIMIT


class Measurements(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `measurements.json`.

    Attributes:
        artifacts: in the order of the candidate's graphs.
        student: per task, the torch student's metric on the same sample.
        latency_seconds: per precision, the median of one text alone on one thread; to choose the default.
        default_artifact: the fastest that passed; the first one where none did.
        golden: examples for every artifact.
        cpu_features: of the CPU that measured.
    """

    artifacts: tuple[ArtifactMeasurements, ...]
    student: dict[str, Interval]
    latency_seconds: dict[str, float]
    default_artifact: str
    golden: Golden
    cpu_features: tuple[str, ...]

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates of all artifacts."""
        return tuple(gate for artifact in self.artifacts for gate in artifact.gates)


def measure(
    candidate_folder: Path,
    model: nn.Module,
    samples: Mapping[str, Sample],
    *,
    limits: Limits | None = None,
    golden: tuple[Source, Sequence[tuple[str, ...]]] | None = None,
) -> Measurements:
    """Measure every graph of a candidate against the torch model that it came from.

    Args:
        candidate_folder: as `export_candidate` wrote it; nothing in it is changed.
        model: the student.
        samples: per task, labelled validation texts.
        limits: of the gates; None for the defaults.
        golden: texts of the golden examples and where they come from; None for synthetic ones.

    Raises:
        UserError: a task without sample, or a metric that is undefined on its sample.
    """
    candidate = read_candidate(candidate_folder)
    limits = limits or Limits()
    _check_samples(candidate, samples)
    encoder = TextEncoder.load(candidate_folder / TOKENIZER_FILE, candidate.inputs)
    models = {g.precision: _load(candidate_folder, g, candidate, encoder) for g in candidate.graphs}
    with eval_mode(model):
        bench = _Bench(candidate, encoder, samples, torch_runner(model))
        artifacts = tuple(_measure_artifact(bench, name, loaded, limits) for name, loaded in models.items())
    latencies = time_alone(
        {name: session_runner(loaded.session, candidate.tasks) for name, loaded in models.items()},
        encoder,
        bench.texts,
    )
    source, texts = golden or ("synthetic", golden_texts(candidate.inputs.text_columns))
    encodings = encoder.encode(texts)
    logits = {precision: loaded.run(encodings) for precision, loaded in models.items()}
    return Measurements(
        artifacts=artifacts,
        student={name: _interval(bench, name, bench.student[name]) for name in samples},
        latency_seconds=latencies,
        default_artifact=_fastest(artifacts, latencies),
        golden=record_golden(texts, encoder, candidate.tasks, logits, source=source),
        cpu_features=cpu_features(),
    )


def write_measurements(folder: Path, measurements: Measurements) -> None:
    """Write `measurements.json`."""
    encoded = msgspec.json.format(msgspec.json.encode(measurements), indent=2)
    (folder / MEASUREMENTS_FILE).write_bytes(encoded + b"\n")


def read_measurements(folder: Path) -> Measurements:
    """Read `measurements.json`; UserError when it is missing or damaged."""
    path = folder / MEASUREMENTS_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Measurements)
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}). Run the measure stage again.") from error


class _Bench:
    """What all artifacts of a candidate are held against, computed once."""

    def __init__(
        self, candidate: Candidate, encoder: TextEncoder, samples: Mapping[str, Sample], reference: Runner
    ) -> None:
        self.tasks: dict[str, TaskSpec] = {task.name: task for task in candidate.tasks}
        self.encoder = encoder
        self.samples = samples
        self.reference = reference
        self.texts = [text for sample in samples.values() for text in sample.texts]
        self.encodings = {name: encoder.encode(sample.texts) for name, sample in samples.items()}
        self.student = {name: self.predict(name, reference, DEFAULT_BATCH_SIZE) for name in samples}

    def predict(self, task: str, run: Runner, batch_size: int) -> NDArray[Any]:
        """Decisions on the task's own sample."""
        logits = run_texts(run, self.encoder, self.encodings[task], batch_size=batch_size)
        return decide(logits[task], self.tasks[task])


def _measure_artifact(bench: _Bench, precision: str, loaded: OnnxModel, limits: Limits) -> ArtifactMeasurements:
    run = session_runner(loaded.session, loaded.tasks)
    tasks = loaded.tasks
    parity = compare(bench.reference, run, bench.encoder, bench.texts, tasks)
    batch_difference = measure_batch_difference(run, bench.encoder, bench.texts, tasks)
    batch_size = DEFAULT_BATCH_SIZE if batch_difference <= INVARIANCE_LIMIT else 1
    predictions = {name: bench.predict(name, run, batch_size) for name in bench.samples}
    gates = _gates(bench, precision, limits, parity, predictions)
    return ArtifactMeasurements(
        precision=precision,
        metrics={name: _interval(bench, name, predictions[name]) for name in bench.samples},
        parity=parity,
        gates=gates,
        batch_difference=batch_difference,
        tolerance=_tolerance(precision, batch_difference, parity),
        passed=has_passed(gates, allow_inconclusive=limits.allow_inconclusive),
    )


def _gates(
    bench: _Bench,
    precision: str,
    limits: Limits,
    parity: Mapping[str, Parity],
    predictions: Mapping[str, NDArray[Any]],
) -> tuple[Gate, ...]:
    """fp32 must repeat torch logit by logit; other precisions must keep the metric."""
    gates: list[Gate] = []
    for name, sample in bench.samples.items():
        subject = f"{precision} {name}"
        if precision == "fp32" and (limit := limits.export_logit_difference) is not None:
            difference = parity[name].max_difference
            gates.append(decide_gate("export_logit_difference", subject, difference, limit=limit))
        if precision != "fp32" and (limit := limits.quantisation_metric_drop) is not None:
            drop, low, high = paired_difference(sample.metric, sample.labels, predictions[name], bench.student[name])
            gates.append(decide_gate("quantisation_metric_drop", subject, drop, limit=limit, low=low, high=high))
    return tuple(gates)


def _interval(bench: _Bench, task: str, predictions: NDArray[Any]) -> Interval:
    sample = bench.samples[task]
    value, low, high = bootstrap_interval(sample.metric, sample.labels, predictions)
    if math.isnan(value) or math.isnan(low):
        raise UserError(
            f"the metric '{bench.tasks[task].metric}' of task '{task}' is undefined on its "
            f"{len(sample.texts)} validation texts. Give more varied ones, or choose another metric."
        )
    return Interval(metric=bench.tasks[task].metric, value=value, low=low, high=high)


def _tolerance(precision: str, batch_difference: float, parity: Mapping[str, Parity]) -> float:
    """How far golden logits may lie apart on another CPU.

    Another CPU rounds differently, which can move an int8 activation by a step or its scale a little. How
    much that may matter was measured twice: by what a neighbour in the batch changes, and by the mean
    distance from the fp32 student.
    """
    if precision == "fp32":
        return MIN_TOLERANCE
    return max(MIN_TOLERANCE, batch_difference, *(found.mean_difference for found in parity.values()))


def _fastest(artifacts: Sequence[ArtifactMeasurements], latencies: Mapping[str, float]) -> str:
    passed = [artifact.precision for artifact in artifacts if artifact.passed]
    return min(passed, key=latencies.__getitem__) if passed else artifacts[0].precision


def _load(folder: Path, graph: Graph, candidate: Candidate, encoder: TextEncoder) -> OnnxModel:
    return OnnxModel(create_session(folder / graph.file), encoder, candidate.tasks)


def _check_samples(candidate: Candidate, samples: Mapping[str, Sample]) -> None:
    for task in candidate.tasks:
        sample = samples.get(task.name)
        if sample is None or not len(sample.texts) or len(sample.texts) != len(sample.labels):
            raise UserError(
                f"task '{task.name}' has no labelled validation texts to measure on. Give a validation split."
            )
