"""The waterfall stage: from the padded teacher to what the bundle serves, and the physical limit below it.

Throughput with all the CPUs that this process may use, from text to answer. Every step is run as its figures were
taken: an artifact whose answers depend on the batch answers one text per call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from compressor.data.splits import TaskData
from compressor.models.attention import EAGER
from compressor.pipeline.stages import read_json, write_json
from compressor.pipeline.timed_models import TimedModel, choices_of_attention, computing_with, load_timed, pick_texts
from compressor.progress import progress_bar
from export.benchmark import Pace, Watch, answer_all, make_batches, notes_on_load
from export.limits import Limit, Peaks, count_work, hold_against_peaks, measure_peaks
from export.runners import session_runner
from export.waterfall import (
    Model,
    Step,
    StepResult,
    Way,
    count_passes,
    in_batches,
    in_lanes,
    measure_waterfall,
    padded,
)
from serving.bundle import Bundle
from serving.host import available_cpus
from serving.manifest import Artifact, Manifest, read_manifest

WATERFALL_FILE = "waterfall.json"
BATCH_SIZES = (1, 8, 32)
PADDED_BATCH = 8
ROUNDS = 6
"""The fewest that give a ratio an interval of 95%."""

FEWEST_TEXTS, MOST_TEXTS = 16, 128
_PASSES = 40
"""What all trials and rounds cost together, in passes of the unpadded teacher; reckoned, not measured."""

_LANES = "lanes"
Text = tuple[str, ...]


@dataclass(frozen=True)
class Contestants:
    """What takes part in the waterfall.

    Attributes:
        teachers: one or several that answer a text together, in torch.
        student: in torch.
        bundle: the folder that is served.
    """

    teachers: Sequence[TimedModel]
    student: TimedModel
    bundle: Path

    @property
    def manifest(self) -> Manifest:
        """Of the bundle."""
        return read_manifest(self.bundle)


def run_waterfall(
    folder: Path,
    bundle: Path,
    *,
    student: Path,
    teachers: Sequence[Path],
    data: Mapping[str, TaskData],
    seconds: float,
) -> None:
    """Measure the waterfall on test texts and write it.

    Args:
        folder: to write.
        bundle: what is served.
        student: its checkpoint.
        teachers: that answer a text together, at least one.
        data: the tasks.
        seconds: that it may take, about.
    """
    inputs = read_manifest(bundle).inputs
    found = Contestants([load_timed(path, inputs) for path in teachers], load_timed(student, inputs), bundle)
    texts = pick_texts(data, MOST_TEXTS)
    texts = texts[:: max(1, len(texts) // _affordable(found, texts, seconds))]
    write_json(folder / WATERFALL_FILE, measure(found, texts, cpus=available_cpus()))


def read_waterfall(folder: Path) -> dict[str, Any]:
    """What `run_waterfall` wrote."""
    found: dict[str, Any] = read_json(folder / WATERFALL_FILE)
    return found


def measure(found: Contestants, texts: Sequence[Text], *, cpus: int) -> dict[str, Any]:
    """The steps, the peaks of this machine and the artifacts' limits, ready for JSON.

    Args:
        found: who takes part.
        texts: to answer.
        cpus: to use.
    """
    watch = Watch()
    results = _timed(list(_steps(found, texts, cpus)), watch)
    conditions = watch.conditions()
    together = measure_peaks(cpus)
    alone = together if cpus == 1 else measure_peaks(1)
    lengths = [len(encoding) for encoding in found.student.encoder.encode(texts)]
    return {
        "cpus": cpus,
        "texts": len(texts),
        "mean_tokens": float(np.mean(lengths)),
        "max_length": found.manifest.inputs.max_length,
        "steps": [{**msgspec.to_builtins(r), "cpu_hours_per_million": r.cpu_hours_per_million} for r in results],
        "peaks": [msgspec.to_builtins(peaks) for peaks in (together, alone)],
        "limits": [msgspec.to_builtins(limit) for limit in _limits(found, texts, results, (together, alone))],
        "conditions": msgspec.to_builtins(conditions),
        "notes": list(notes_on_load(conditions)),
    }


def _timed(steps: Sequence[Step], watch: Watch) -> list[StepResult]:
    """Time the steps, with a bar, looking at the machine's load after every pass."""
    done = count(1)
    with progress_bar("waterfall", count_passes(steps, ROUNDS)) as bar:

        def advance() -> None:
            watch.sample()
            bar.update(next(done))

        return measure_waterfall(steps, pace=Pace(rounds=ROUNDS), baseline="torch", advance=advance)


def _affordable(found: Contestants, texts: Sequence[Text], seconds: float) -> int:
    """How many texts fit into so many seconds, judged by the teacher on a few."""
    few = texts[:: max(1, len(texts) // PADDED_BATCH)]
    work = in_batches([_model(timed) for timed in found.teachers], few, PADDED_BATCH)
    work()
    begin = time.perf_counter()
    work()
    per_text = (time.perf_counter() - begin) / len(few)
    return int(np.clip(seconds / (_PASSES * per_text), FEWEST_TEXTS, MOST_TEXTS))


def _steps(found: Contestants, texts: Sequence[Text], cpus: int) -> Iterator[Step]:
    teachers = [_model(timed) for timed in found.teachers]
    few = texts[: 2 * PADDED_BATCH]
    eager = computing_with(found.teachers, EAGER, cpus)
    label = f"eager, batch {PADDED_BATCH}, {found.manifest.inputs.max_length} tokens"
    yield Step("padded", "teacher", [Way(label, padded(teachers, few, PADDED_BATCH), len(few), eager)])
    yield Step("torch", "teacher", list(_torch_ways(found.teachers, texts, cpus)))
    yield Step("student", "student", list(_torch_ways([found.student], texts, cpus)))
    for artifact in served(found.manifest):
        yield Step(artifact.precision, artifact.precision, list(_artifact_ways(found.bundle, artifact, texts, cpus)))
    if cpus > 1 and found.manifest.default_artifact is not None:
        served_one = found.manifest.artifact()
        yield Step(_LANES, served_one.precision, list(_lane_ways(found.bundle, served_one, texts, cpus)))


def served(manifest: Manifest) -> list[Artifact]:
    """fp32 and, where there is one and it is another, the artifact that is served by default."""
    return [artifact for artifact in manifest.artifacts if artifact.precision in ("fp32", manifest.default_artifact)]


def _torch_ways(models: Sequence[TimedModel], texts: Sequence[Text], cpus: int) -> Iterator[Way]:
    """Every implementation of attention at every batch size, texts sorted and unpadded."""
    parts = [_model(timed) for timed in models]
    for implementation in choices_of_attention(models):
        turn = computing_with(models, implementation, cpus)
        for batch_size in BATCH_SIZES:
            label = f"{implementation}, batch {batch_size}"
            yield Way(label, in_batches(parts, texts, batch_size), len(texts), turn)


def _artifact_ways(bundle: Path, artifact: Artifact, texts: Sequence[Text], cpus: int) -> Iterator[Way]:
    model = _served_model(bundle, artifact, cpus)
    for batch_size in _batch_sizes(artifact):
        yield Way(f"batch {batch_size}", in_batches([model], texts, batch_size), len(texts))


def _lane_ways(bundle: Path, artifact: Artifact, texts: Sequence[Text], cpus: int) -> Iterator[Way]:
    model = _served_model(bundle, artifact, 1)
    for batch_size in _batch_sizes(artifact):
        label = f"{cpus} lanes, batch {batch_size}"
        yield Way(label, in_lanes(model, texts, batch_size, lanes=cpus), len(texts))


def _batch_sizes(artifact: Artifact) -> Sequence[int]:
    return BATCH_SIZES if artifact.batch_invariant else (1,)


def _served_model(bundle: Path, artifact: Artifact, threads: int) -> Model:
    loaded = Bundle.load(bundle, artifact.precision, threads=threads, check=False)
    tasks = loaded.manifest.tasks
    return Model(session_runner(loaded.model.session, tasks), loaded.model.encoder, answer_all(tasks))


def _model(timed: TimedModel) -> Model:
    return Model(timed.run, timed.encoder, timed.answer)


def _limits(
    found: Contestants, texts: Sequence[Text], results: Sequence[StepResult], peaks: tuple[Peaks, Peaks]
) -> Iterator[Limit]:
    """Every step that runs an artifact beside the limit, at the batch size that it was run with."""
    artifacts = {artifact.precision: artifact for artifact in found.manifest.artifacts}
    for result in (result for result in results if result.subject in artifacts):
        batch_size = int(result.way.rpartition(" ")[2])
        graph = found.bundle / artifacts[result.subject].file
        yield hold_against_peaks(
            count_work(graph, make_batches(found.student.encoder, texts, batch_size)),
            count_work(graph, make_batches(found.student.encoder, texts, 1)),
            step=result.name,
            precision=result.subject,
            texts_per_second=result.texts_per_second,
            peaks=peaks,
        )
