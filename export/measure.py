"""What a candidate's graphs are worth: the parity ladder, metrics, gates, invariance, latency, golden logits.

Reads a candidate and writes JSON only. Everything is measured through the code that serves, on validation
texts; the test split is not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from export.benchmark import time_alone
from export.candidate import CANDIDATE_FILE, Candidate, check_files, read_candidate
from export.confidence import all_calibrated, calibrations, fit_temperatures
from export.gates import Gate, Limits
from export.golden_texts import golden_texts
from export.parity.bench import Answers, Bench
from export.parity.climbed import Climbed, climb_all
from export.parity.invariance import INVARIANCE_LIMIT, largest_difference
from export.parity.ladder import judge, judge_tokens
from export.parity.rungs import FP32, TORCH, Rung
from export.parity.tokens import Tokenise
from export.parity.weights import used_weights
from export.quantise.forms import HALF
from export.runners import eval_mode, session_runner, torch_runner
from export.sample import Sample, check_samples
from export.statistics import bootstrap_interval
from export.temperature import TemperatureFit
from serving.certification import certify_here
from serving.claims import Calibration, Certification, Interval, Invariance, Parity, Step, TargetRuntime
from serving.errors import UserError
from serving.golden import Golden, Source, record_golden
from serving.hashing import hash_file
from serving.manifest import TaskSpec
from serving.tokenise import TOKENIZER_FILE, TextEncoder

MEASUREMENTS_FILE = "measurements.json"
MIN_TOLERANCE = 1e-3


class ArtifactMeasurements(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one graph that answers; the fields are those of `serving.manifest.Artifact`.

    Attributes:
        precision: of the graph.
        metrics: per task, on the sample; a task is absent where the metric is undefined on the graph's answers.
        parity: per task, against the torch student.
        calibration: per task with probabilities, read at its temperature.
        ladder: per task, the steps from the torch student down to this graph.
        invariance: per task, a text alone against the same text in company.
        batch_difference: the largest logit difference among these.
        tolerance: allowed when golden examples are replayed.
        passed: whether its gates and those of the rungs above passed.
    """

    precision: str
    metrics: dict[str, Interval]
    parity: dict[str, Parity]
    calibration: dict[str, Calibration]
    ladder: dict[str, tuple[Step, ...]]
    invariance: dict[str, Invariance]
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
        candidate: sha256 of the candidate.json that was measured, which holds those of all its files.
        ladder: every rung with its gates, from the top; rungs that could not be measured are there too.
        artifacts: those that answer everywhere, in the order of the candidate's graphs.
        student: per task, the torch student's metric on the same sample.
        temperatures: per task with probabilities, unless none was to be fitted.
        latency_seconds: per precision, the median of one text alone on one thread; to choose the default.
        default_artifact: the fastest that passed; None where none did.
        golden: examples for every artifact.
        certified: the machine and runtime that measured.
        target: the ONNX Runtime that the graphs are meant for, if one was named (see `export.target`).
    """

    candidate: str
    ladder: tuple[Rung, ...]
    artifacts: tuple[ArtifactMeasurements, ...]
    student: dict[str, Interval]
    temperatures: dict[str, TemperatureFit]
    latency_seconds: dict[str, float]
    default_artifact: str | None
    golden: Golden
    certified: Certification
    target: TargetRuntime | None = None

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates of all rungs."""
        return tuple(gate for rung in self.ladder for gate in rung.gates)


def measure(
    candidate_folder: Path,
    model: nn.Module,
    samples: Mapping[str, Sample],
    *,
    limits: Limits | None = None,
    golden: tuple[Source, Sequence[tuple[str, ...]]] | None = None,
    tokenise: Tokenise | None = None,
) -> Measurements:
    """Measure every graph of a candidate against the torch model that it came from.

    Args:
        candidate_folder: as `export_candidate` wrote it; nothing in it is changed.
        model: the student.
        samples: per task, labelled validation texts.
        limits: of the gates; None for the defaults.
        golden: texts of the golden examples and where they come from; None for synthetic ones.
        tokenise: the student's own tokenizer, which the candidate's must repeat; None where it has no other.

    Raises:
        UserError: a task without sample or with other labels than its sample, a metric that is undefined on it, a
            changed file, or a student that gives no numbers itself.
    """
    candidate = read_candidate(candidate_folder)
    check_files(candidate_folder, candidate)
    check_samples(candidate.tasks, samples)
    samples = {task.name: samples[task.name] for task in candidate.tasks}
    encoder = TextEncoder.load(candidate_folder / TOKENIZER_FILE, candidate.inputs)
    source, texts = golden or ("synthetic", golden_texts(candidate.inputs.text_columns))
    with eval_mode(model):
        bench = Bench(candidate.tasks, encoder, samples, torch_runner(model), texts)
        weights = used_weights(model, bench.batches[0])
    climbed = climb_all(bench, candidate, candidate_folder, weights)
    above = [judge_tokens(bench, tokenise)] if tokenise else []
    ladder = (*above, *judge(bench, list(climbed.values()), limits or Limits(), above))
    rungs = {rung.name: rung for rung in ladder}
    temperatures = fit_temperatures(bench)
    tasks = all_calibrated(candidate.tasks, temperatures)
    artifacts = tuple(_artifact(bench, climbed[name], rungs, tasks) for name in _answering(candidate, climbed))
    latencies = _latencies(bench, climbed, artifacts)
    return Measurements(
        candidate=hash_file(candidate_folder / CANDIDATE_FILE),
        ladder=ladder,
        artifacts=artifacts,
        student={name: _interval_of_student(bench, name) for name in samples},
        temperatures=temperatures,
        latency_seconds=latencies,
        default_artifact=fastest(artifacts, latencies),
        golden=_golden(bench, climbed, artifacts, tasks, (source, texts)),
        certified=certify_here(),
    )


def write_measurements(folder: Path, measurements: Measurements) -> None:
    """Write `measurements.json`."""
    encoded = msgspec.json.format(msgspec.json.encode(measurements), indent=2)
    (folder / MEASUREMENTS_FILE).write_bytes(encoded + b"\n")


def read_measurements(folder: Path) -> Measurements:
    """Read `measurements.json`; UserError when it is missing or damaged, or a verdict contradicts its numbers."""
    path = folder / MEASUREMENTS_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Measurements)
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}). Run the measure stage again.") from error


def _answering(candidate: Candidate, climbed: Mapping[str, Climbed]) -> list[str]:
    """Precisions of the graphs that gave numbers everywhere: of any other nothing can be claimed."""
    return [graph.precision for graph in candidate.graphs if climbed[graph.precision].problem is None]


def _artifact(
    bench: Bench, climbed: Climbed, rungs: Mapping[str, Rung], tasks: Sequence[TaskSpec]
) -> ArtifactMeasurements:
    rung = rungs[climbed.name]
    parity = {task: found.parity for task, found in rung.comparisons[TORCH].items()}
    difference = largest_difference(dict(rung.invariance))
    found = {task: _interval(bench, task, climbed.answers) for task in bench.tasks} if climbed.answers else {}
    return ArtifactMeasurements(
        precision=climbed.name,
        metrics={task: interval for task, interval in found.items() if interval is not None},
        parity=parity,
        calibration=calibrations(bench, climbed.answers, tasks),
        ladder={task: tuple(_steps(rung, rungs, task))[::-1] for task in bench.tasks},
        invariance=dict(rung.invariance),
        batch_difference=difference,
        tolerance=golden_tolerance(climbed.name, difference, parity),
        passed=rung.passed,
    )


def _steps(rung: Rung, rungs: Mapping[str, Rung], task: str) -> Iterator[Step]:
    """From a rung up to torch."""
    found = rung.comparisons[rung.made_from][task] if rung.made_from in rung.comparisons else None
    if found is not None:
        yield Step(
            rung=rung.name,
            made_from=rung.made_from,
            max_difference=found.parity.max_difference,
            mean_difference=found.parity.mean_difference,
            agreement=found.parity.agreement,
            metric_drop=found.metric_drop,
        )
    if rung.made_from in rungs:
        yield from _steps(rungs[rung.made_from], rungs, task)


def _interval(bench: Bench, task: str, answers: Answers) -> Interval | None:
    """The metric with its interval; None where it is undefined."""
    sample = bench.samples[task]
    ends = bootstrap_interval(sample.metric, sample.labels, bench.decisions(answers, task))
    if not np.isfinite(ends).all():
        return None
    value, low, high = ends
    return Interval(metric=bench.tasks[task].metric, value=value, low=low, high=high)


def _interval_of_student(bench: Bench, task: str) -> Interval:
    found = _interval(bench, task, bench.torch)
    if found is None:
        raise UserError(
            f"the metric '{bench.tasks[task].metric}' of task '{task}' is undefined on its "
            f"{len(bench.samples[task].texts)} validation texts. Give more varied ones, or choose another metric."
        )
    return found


def golden_tolerance(precision: str, batch_difference: float, parity: Mapping[str, Parity]) -> float:
    """How far golden logits may lie apart on another CPU.

    Another CPU rounds differently, which can move an int8 activation by a step or its scale a little. How
    much that may matter was measured twice: by what a neighbour in the batch changes, and by the mean
    distance from the fp32 student.
    """
    if precision == FP32:
        return MIN_TOLERANCE
    return max(MIN_TOLERANCE, batch_difference, *(found.mean_difference for found in parity.values()))


def _latencies(
    bench: Bench, climbed: Mapping[str, Climbed], artifacts: Sequence[ArtifactMeasurements]
) -> dict[str, float]:
    models = {artifact.precision: climbed[artifact.precision].model for artifact in artifacts}
    runs = {name: session_runner(model.session, model.tasks) for name, model in models.items() if model}
    return time_alone(runs, bench.encoder, bench.texts) if runs else {}


def _golden(
    bench: Bench,
    climbed: Mapping[str, Climbed],
    artifacts: Sequence[ArtifactMeasurements],
    tasks: Sequence[TaskSpec],
    golden: tuple[Source, Sequence[tuple[str, ...]]],
) -> Golden:
    source, texts = golden
    encodings = bench.encoder.encode(texts)
    models = {artifact.precision: climbed[artifact.precision].model for artifact in artifacts}
    logits: dict[str, dict[str, NDArray[Any]]] = {
        name: dict(model.run(encodings)) for name, model in models.items() if model
    }
    return record_golden(texts, bench.encoder, tasks, logits, source=source)


def fastest(artifacts: Sequence[ArtifactMeasurements], latencies: Mapping[str, float]) -> str | None:
    """The precision that is served by default: of those that passed, the one that answers soonest; never fp16."""
    passed = [artifact.precision for artifact in artifacts if artifact.passed and artifact.precision != HALF]
    return min(passed, key=lambda name: latencies.get(name, math.inf)) if passed else None
