"""Candidates that a defective exporter would have written: one thing is wrong, all hashes are right."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from export.candidate import CANDIDATE_FILE, Candidate, Student, check_files, export_candidate, read_candidate
from export.gates import Limits
from export.measure import Measurements, measure
from export.parity.bench import Bench
from export.parity.climbed import climb_all
from export.parity.ladder import judge, judge_tokens
from export.parity.rungs import Rung
from export.parity.tokens import Tokenise
from export.parity.weights import used_weights
from export.runners import torch_runner
from export.sample import Sample
from serving.hashing import hash_file
from serving.manifest import TaskSpec
from serving.tokenise import TextEncoder
from tests.export.conftest import INPUTS, INTENT, Heads, make_config, make_texts, save_tokenizer

PLAIN_FILE, FP32_FILE, INT8_FILE = "rungs/plain.onnx", "model.fp32.onnx", "model.int8.onnx"
ALL_FILES = (PLAIN_FILE, FP32_FILE, INT8_FILE)
LIMITS = Limits(quantisation_metric_drop=0.5)
TONE = TaskSpec(name="tone", type="classification", labels=("cold", "warm", "hot"), metric="accuracy")
PAIR_INPUTS = msgspec.structs.replace(
    INPUTS, names=("input_ids", "attention_mask", "token_type_ids"), text_columns=("question", "answer")
)
Mutation = Callable[[onnx.ModelProto], None]
Mutate = Callable[..., Path]


@pytest.fixture
def mutate(candidate: tuple[Path, Candidate], tmp_path: Path) -> Mutate:
    """A factory: mutation and files -> a copy of the toy candidate with these graphs changed."""
    return lambda mutation, *files: with_graphs_changed(candidate[0], tmp_path / "mutant", mutation, files or ALL_FILES)


def with_graphs_changed(source: Path, target: Path, mutation: Mutation, files: tuple[str, ...]) -> Path:
    """Copy a candidate, change some of its graphs, and hash them as the exporter would have."""
    shutil.copytree(source, target)
    for name in files:
        model = onnx.load(target / name)
        mutation(model)
        onnx.save_model(model, str(target / name))
    return sign_again(target)


def sign_again(folder: Path, **changes: Any) -> Path:
    """Write candidate.json with the hashes of the files that are there now, and other changes."""
    candidate = msgspec.structs.replace(read_candidate(folder), **changes)
    graphs = [
        msgspec.structs.replace(
            graph, sha256=hash_file(folder / graph.file), bytes=(folder / graph.file).stat().st_size
        )
        for graph in (candidate.plain, *candidate.graphs)
    ]
    files = {name: hash_file(folder / name) for name in candidate.files}
    signed = msgspec.structs.replace(candidate, plain=graphs[0], graphs=tuple(graphs[1:]), files=files)
    (folder / CANDIDATE_FILE).write_bytes(msgspec.json.encode(signed))
    return folder


@pytest.fixture
def own_tokens(encoder: TextEncoder) -> Tokenise:
    """What the toy student was trained on."""
    return lambda texts: encoder.batch(encoder.encode(texts))


@pytest.fixture(scope="session")
def bench(student: Student, encoder: TextEncoder, sample: Sample) -> Bench:
    """The toy student's answers."""
    return Bench([INTENT], encoder, {"intent": sample}, torch_runner(student.model), make_texts(3, seed=5))


@pytest.fixture
def climbing(student: Student, bench: Bench, own_tokens: Tokenise) -> Callable[[Path], tuple[Rung, ...]]:
    """The ladder of a candidate of the toy student, without what `measure` makes of it."""
    weights = used_weights(student.model, bench.batches[0])

    def climb(folder: Path) -> tuple[Rung, ...]:
        candidate = read_candidate(folder)
        check_files(folder, candidate)
        own = TextEncoder.load(folder / "tokenizer.json", candidate.inputs)
        tokens = judge_tokens(bench_of(own), own_tokens)
        graphs = climb_all(bench, candidate, folder, weights)
        return (tokens, *judge(bench, list(graphs.values()), LIMITS, [tokens]))

    def bench_of(encoder: TextEncoder) -> Bench:
        other = copy.copy(bench)
        other.encoder = encoder
        return other

    return climb


@pytest.fixture
def measuring(student: Student, sample: Sample, own_tokens: Tokenise) -> Callable[[Path], Measurements]:
    """A candidate of the toy student, measured."""
    return lambda folder: measure(folder, student.model, {"intent": sample}, limits=LIMITS, tokenise=own_tokens)


@pytest.fixture(scope="session")
def pair_student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    """A tiny BERT that reads pairs with token types and answers two tasks of the same width."""
    folder = tmp_path_factory.mktemp("pairs")
    save_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        heads = {
            name: AutoModelForSequenceClassification.from_config(make_config("bert")) for name in ("intent", "tone")
        }
    tasks = (TaskSpec(name="intent", type="classification", labels=("a", "b", "c"), metric="accuracy"), TONE)
    return Student(Heads(heads).eval(), make_config("bert"), folder, tasks, PAIR_INPUTS)


@pytest.fixture(scope="session")
def pair_candidate(pair_student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its candidate; tests must not change the folder."""
    folder = tmp_path_factory.mktemp("pair-candidate")
    export_candidate(pair_student, folder, precisions=["fp32"])
    return folder


@pytest.fixture(scope="session")
def pairs() -> list[tuple[str, ...]]:
    """Text pairs of many lengths."""
    return [(first, second) for (first,), (second,) in zip(make_texts(24), make_texts(24, 1), strict=True)]


def rung_of(ladder: Sequence[Rung], name: str) -> Rung:
    """A rung by its name."""
    return next(rung for rung in ladder if rung.name == name)


def verdicts(ladder: Sequence[Rung]) -> dict[str, bool]:
    """Which rungs passed."""
    return {rung.name: rung.passed for rung in ladder}
