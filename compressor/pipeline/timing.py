"""The latency stage: teacher and student in torch, every artifact through the serving code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import torch

from compressor.data.splits import TaskData
from compressor.pipeline.stages import read_json, write_json
from compressor.pipeline.timed_models import TimedModel, choices_of_attention, computing_with, load_timed, pick_texts
from compressor.progress import announce, progress_bar
from compressor.recipe import BenchmarkSettings
from export.benchmark import (
    Measurement,
    Pace,
    Variant,
    Watch,
    answer_all,
    find_drift,
    notes_on,
    ratio_between,
    run_benchmark,
    synchronised,
)
from export.runners import Inputs, Logits, Runner, session_runner
from serving.bundle import Bundle
from serving.errors import UserError
from serving.hashing import hash_file
from serving.host import available_cpus
from serving.manifest import read_manifest
from serving.placement import check_placement, nodes_per_provider, placement_of
from serving.tokenise import TOKENIZER_FILE, TextEncoder

MEASUREMENTS_FILE = "latency.json"
_QUICK_TEXTS = 16
_QUICK_ROUNDS = 3


def measure_latency(
    folder: Path,
    bundle: Path,
    *,
    student: Path,
    teachers: Mapping[str, Path],
    data: Mapping[str, TaskData],
    settings: BenchmarkSettings,
) -> None:
    """Time all variants, interleaved, on test texts with their own lengths.

    Several teachers count as one variant that runs them one after the other: that is what the student replaces.
    Where they read different tokens they are timed one by one, as `teacher-<task>`.
    """
    texts = pick_texts(data, settings.texts)
    encoder = TextEncoder.load(bundle / TOKENIZER_FILE, read_manifest(bundle).inputs)
    variants, left_out = _variants(bundle, {**_by_tokenizer(teachers), "student": [student]}, texts, settings)
    watch = Watch()
    measured = _timed(variants, encoder, texts, settings, watch)
    conditions, drift = watch.conditions(), find_drift(measured)
    notes = [*left_out, *notes_on(conditions, drift, measured)]
    for note in notes:
        announce(f"  {note}")
    written = {
        "measurements": [_row(measurement, measured) for measurement in measured],
        "conditions": msgspec.to_builtins(conditions),
        "drift": msgspec.to_builtins(drift),
        "notes": notes,
    }
    write_json(folder / MEASUREMENTS_FILE, written)


def _timed(
    variants: Sequence[Variant],
    encoder: TextEncoder,
    texts: Sequence[tuple[str, ...]],
    settings: BenchmarkSettings,
    watch: Watch,
) -> list[Measurement]:
    """Time the variants, with a bar, looking at the machine's load after every turn."""
    done, sizes = count(1), settings.batch_sizes
    with progress_bar("timing", len(variants) * len(sizes) * (settings.rounds + 1)) as bar:

        def advance() -> None:
            watch.sample()
            bar.update(next(done))

        pace = Pace(rounds=settings.rounds)
        return run_benchmark(variants, encoder, texts, batch_sizes=sizes, pace=pace, advance=advance)


def read_latency(folder: Path) -> list[dict[str, Any]]:
    """The rows of `measure_latency` without the seconds of each round."""
    rows: list[dict[str, Any]] = read_json(folder / MEASUREMENTS_FILE)["measurements"]
    return [{key: value for key, value in row.items() if key != "round_seconds"} for row in rows]


def read_circumstances(folder: Path) -> dict[str, Any]:
    """What `measure_latency` saw of the machine: `conditions`, `drift` and, in sentences, `notes`."""
    found: dict[str, Any] = read_json(folder / MEASUREMENTS_FILE)
    return {name: found[name] for name in ("conditions", "drift", "notes")}


def _row(measurement: Measurement, measured: Sequence[Measurement]) -> dict[str, Any]:
    """A measurement with its ratio to the teacher in torch at the same point, or to the student where there is none."""
    return {**msgspec.to_builtins(measurement), "speed_up": _speed_up(measurement, measured)}


def _speed_up(measurement: Measurement, measured: Sequence[Measurement]) -> dict[str, Any] | None:
    own = _point(measurement)
    for name in ("teacher", "student"):
        baselines = [m for m in measured if (m.variant, m.runtime) == (name, "torch") and _point(m) == own]
        if baselines:
            baseline = min(baselines, key=lambda m: m.p50_ms)
            if baseline is measurement:
                return None
            ratio = ratio_between(baseline, measurement)
            return {"over": name, **msgspec.to_builtins(ratio), "verdict": ratio.verdict}
    return None


def _point(measurement: Measurement) -> tuple[str, int, int]:
    return measurement.device, measurement.threads, measurement.batch_size


def _by_tokenizer(teachers: Mapping[str, Path]) -> dict[str, list[Path]]:
    """The teachers by the name of their variant: all together if they read the same tokens, else one each."""
    if not teachers:
        return {}
    if len({hash_file(folder / TOKENIZER_FILE) for folder in teachers.values()}) == 1:
        return {"teacher": list(dict.fromkeys(teachers.values()))}
    return {f"teacher-{task}": [folder] for task, folder in teachers.items()}


def _variants(
    bundle: Path,
    folders: Mapping[str, Sequence[Path]],
    texts: Sequence[tuple[str, ...]],
    settings: BenchmarkSettings,
) -> tuple[list[Variant], list[str]]:
    """Everything to time, and in sentences what cannot be."""
    threads = sorted({available_cpus() if number == "all" else number for number in settings.threads})
    devices = ["cpu", "cuda"] if settings.devices == "auto" and torch.cuda.is_available() else ["cpu"]
    inputs = read_manifest(bundle).inputs
    variants: list[Variant] = []
    left_out: list[str] = []
    for device in devices:
        for name, places in folders.items():
            models = [load_timed(place, inputs, device) for place in places]
            variants += _torch_variants(name, models, texts, threads=threads, device=device)
        variants += _bundle_variants(bundle, threads, device, settings=settings, left_out=left_out)
    return variants, left_out


def _torch_variants(
    name: str,
    models: Sequence[TimedModel],
    texts: Sequence[tuple[str, ...]],
    *,
    threads: Sequence[int],
    device: str,
) -> Iterator[Variant]:
    """One variant per number of threads, each with the quicker implementation of attention."""
    run = _one_after_the_other([timed.run for timed in models])
    answer = answer_all([task for timed in models for task in timed.tasks])

    def variant(implementation: str, number: int) -> Variant:
        return Variant(
            name,
            "torch",
            "fp32",
            device,
            number,
            run if device == "cpu" else synchronised(run),
            turn=computing_with(models, implementation, number),
            encoder=models[0].encoder,
            answer=answer,
            attention=implementation,
        )

    for number in threads if device == "cpu" else [1]:
        yield _quicker([variant(choice, number) for choice in choices_of_attention(models)], texts)


def _quicker(variants: Sequence[Variant], texts: Sequence[tuple[str, ...]]) -> Variant:
    """The variant with the shortest median for one text, in a quick look at a few of them."""
    if len(variants) == 1:
        return variants[0]
    step = max(1, len(texts) // _QUICK_TEXTS)
    encoder = variants[0].encoder
    if encoder is None:
        raise RuntimeError("a torch variant brings its own encoder")
    measured = run_benchmark(variants, encoder, texts[::step], batch_sizes=[1], pace=Pace(rounds=_QUICK_ROUNDS))
    quickest = min(range(len(variants)), key=lambda place: measured[place].p50_ms)
    return variants[quickest]


def _bundle_variants(
    bundle: Path, threads: Sequence[int], device: str, *, settings: BenchmarkSettings, left_out: list[str]
) -> Iterator[Variant]:
    """Every artifact; one that a GPU would compute on the CPU is left out and named, unless that is allowed."""
    for artifact in read_manifest(bundle).artifacts:
        for number in threads if device == "cpu" else [1]:
            loaded = Bundle.load(bundle, artifact.precision, threads=number, device=device, check=False)
            placement = placement_of(loaded.model.session)
            try:
                if not settings.allow_cpu_fallback:
                    check_placement(placement, device, name=artifact.file)
            except UserError as error:
                left_out.append(f"Not timed: {error}")
                continue
            tasks = loaded.manifest.tasks
            run = session_runner(loaded.model.session, tasks)
            yield Variant(
                "bundle",
                "onnxruntime",
                artifact.precision,
                device,
                number,
                run if device == "cpu" else synchronised(run),
                answer=answer_all(tasks),
                nodes=nodes_per_provider(placement),
            )


def _one_after_the_other(runners: Sequence[Runner]) -> Runner:
    def run(inputs: Inputs) -> Logits:
        return {name: logits for runner in runners for name, logits in runner(inputs).items()}

    return run
