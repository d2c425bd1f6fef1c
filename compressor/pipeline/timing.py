"""The latency stage: teacher and student in torch, every artifact through the serving code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from compressor.data.splits import TEST, TaskData
from compressor.models.checkpoint import load_with_tokenizer
from compressor.models.inputs import describe_inputs
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import progress_bar
from compressor.recipe import BenchmarkSettings
from export.benchmark import Pace, Variant, run_benchmark, synchronised, torch_threads
from export.runners import Inputs, Logits, Runner, session_runner, torch_runner
from serving.bundle import Bundle
from serving.hashing import hash_file
from serving.host import available_cpus
from serving.manifest import InputSpec, read_manifest
from serving.tokenise import TOKENIZER_FILE, TextEncoder

MEASUREMENTS_FILE = "latency.json"


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
    texts = _pick([text for task in data.values() for text in task.splits[TEST].texts], settings.texts)
    threads = sorted({available_cpus() if number == "all" else number for number in settings.threads})
    devices = ["cpu", "cuda"] if settings.devices == "auto" and torch.cuda.is_available() else ["cpu"]
    inputs = read_manifest(bundle).inputs
    encoder = TextEncoder.load(bundle / TOKENIZER_FILE, inputs)
    models = {**_by_tokenizer(teachers), "student": [student]}
    variants = [
        variant
        for device in devices
        for variant in (
            *_torch_variants(models, inputs, threads, device),
            *_bundle_variants(bundle, threads, device),
        )
    ]
    with progress_bar("timing", len(variants) * len(settings.batch_sizes) * (settings.rounds + 1)) as bar:
        done = iter(range(1, 1_000_000))
        measured = run_benchmark(
            variants,
            encoder,
            texts,
            batch_sizes=settings.batch_sizes,
            pace=Pace(rounds=settings.rounds),
            advance=lambda: bar.update(next(done)),
        )
    write_json(folder / MEASUREMENTS_FILE, msgspec.to_builtins(measured))


def read_latency(folder: Path) -> list[dict[str, Any]]:
    """The rows of `measure_latency` without the seconds of each round."""
    rows: list[dict[str, Any]] = read_json(folder / MEASUREMENTS_FILE)
    return [{key: value for key, value in row.items() if key != "round_seconds"} for row in rows]


def _pick(texts: Sequence[tuple[str, ...]], number: int) -> list[tuple[str, ...]]:
    """Texts evenly spread over the split."""
    picks = np.linspace(0, len(texts) - 1, num=min(number, len(texts))).round().astype(int)
    return [texts[pick] for pick in picks]


def _by_tokenizer(teachers: Mapping[str, Path]) -> dict[str, list[Path]]:
    """The teachers by the name of their variant: all together if they read the same tokens, else one each."""
    if not teachers:
        return {}
    if len({hash_file(folder / TOKENIZER_FILE) for folder in teachers.values()}) == 1:
        return {"teacher": list(teachers.values())}
    return {f"teacher-{task}": [folder] for task, folder in teachers.items()}


def _torch_variants(
    models: Mapping[str, Sequence[Path]], inputs_of_bundle: InputSpec, threads: Sequence[int], device: str
) -> Iterator[Variant]:
    for name, folders in models.items():
        runners, encoder = [], None
        for folder in folders:
            model, tokenizer = load_with_tokenizer(folder)
            inputs = describe_inputs(
                model,
                tokenizer,
                max_length=inputs_of_bundle.max_length,
                text_columns=inputs_of_bundle.text_columns,
            )
            encoder = TextEncoder.load(folder / TOKENIZER_FILE, inputs)
            runners.append(torch_runner(model.to(device)))
        run = _one_after_the_other(runners)
        if device == "cuda":
            yield Variant(name, "torch", "fp32", device, 1, synchronised(run), encoder=encoder)
            continue
        for number in threads:
            yield Variant(name, "torch", "fp32", device, number, run, turn=torch_threads(number), encoder=encoder)


def _bundle_variants(bundle: Path, threads: Sequence[int], device: str) -> Iterator[Variant]:
    for artifact in read_manifest(bundle).artifacts:
        for number in threads if device == "cpu" else [1]:
            loaded = Bundle.load(bundle, artifact.precision, threads=number, device=device, check=False)
            run = session_runner(loaded.model.session, loaded.manifest.tasks)
            yield Variant("bundle", "onnxruntime", artifact.precision, device, number, run)


def _one_after_the_other(runners: Sequence[Runner]) -> Runner:
    def run(inputs: Inputs) -> Logits:
        return {name: logits for runner in runners for name, logits in runner(inputs).items()}

    return run
