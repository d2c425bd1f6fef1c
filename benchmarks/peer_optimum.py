"""Our artifacts against those of optimum-onnx 0.1.0, from one checkpoint of each of five architectures, in one process.

Both sides' graphs run through the same ONNX Runtime with the same session settings, one thread, interleaved,
on texts with their own lengths. The ratio of a cell is the peer's time over ours, paired by round, with its
95% interval; the goal is a lower end of at least 0.97 against each of the peer's graphs of that precision. These
batches are the same for both: texts of like length. A second comparison is of the programs as they are used, in calls
of 8 texts: ours takes texts of like length together, the peer's classes and transformers' pipeline take them as they
come; the goal is 1.15. Logits of all graphs are held against the torch model, and our bundle is read by the peer's own
classes: ids and logits.

    python -m benchmarks.peer_optimum --environment FOLDER

The peer needs transformers below 4.58, so it works in an environment of its own, made on the first call. `bert` is the
built-in teacher cut to `--layers`, the others are random models of its shape: speed does not depend on training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from benchmarks.cells import DOCS, HERE, machine, put_block
from benchmarks.peer_checkpoints import ARCHITECTURES, DEFAULT_ARCHITECTURES, Shape, cut_built_in, make_checkpoint
from benchmarks.peer_table import GOAL, GOAL_IN_USE, describe
from export.benchmark import Measurement, Pace, Variant, compare_variants, keep_order, run_benchmark
from export.bundle import assemble_bundle
from export.candidate import Candidate, Student, export_candidate
from export.measure import measure
from export.parity import compare
from export.runners import Runner, run_texts, session_runner, torch_runner
from export.sample import Sample
from serving.manifest import InputSpec, TaskSpec
from serving.session import create_session
from serving.tokenise import TOKENIZER_FILE, TextEncoder

MAX_LENGTH = 128
PEER_PACKAGES = ("optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.*", "torch==2.13.0")
PEER_FORMS = ("plain", "o2")
PRECISIONS = ("fp32", "int8")
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
TASK = "task"
BATCHES = (1, 8)
IN_USE_BATCH = 8
IN_USE_ROUNDS = 10
Texts = Sequence[tuple[str, ...]]


class SingleTask(nn.Module):
    """A sequence classifier in the form that `export` takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits under the task's name, [batch, labels]."""
        return {TASK: self.model(**inputs).logits}


def main(options: Sequence[str] | None = None) -> None:
    """Measure every architecture, write the JSON after each, and the table at the end."""
    arguments = _parse(options)
    texts = read_texts(arguments.texts, arguments.num_texts)
    many = read_texts(arguments.texts, arguments.num_texts_in_use)
    found: dict[str, Any] = {
        **machine(), "goal": GOAL, "layers": arguments.layers, "width": arguments.width, "texts": len(texts),
        "texts_in_use": len(many), "goal_in_use": GOAL_IN_USE, "rounds": arguments.rounds, "architectures": {},
    }  # fmt: skip
    for name in arguments.architectures:
        with tempfile.TemporaryDirectory() as scratch:
            found["architectures"][name] = measure_architecture(name, arguments, Path(scratch), texts, many)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = describe(found)
    put_block(arguments.docs, "peer-export", text)
    print(text)


def measure_architecture(
    name: str, arguments: argparse.Namespace, scratch: Path, texts: Texts, many: Texts
) -> dict[str, Any]:
    """One architecture: both sides' graphs, their correctness and their speed."""
    shape = Shape(arguments.layers, arguments.width)
    checkpoint = (
        cut_built_in(arguments.layers, scratch / "checkpoint")
        if name == "bert" and not arguments.quick
        else make_checkpoint(name, shape, scratch / "checkpoint")
    )
    student = open_student(checkpoint)
    ours = export_candidate(student, scratch / "ours", precisions=PRECISIONS)
    bundle = make_bundle(student, scratch, texts)
    peer = ask_peer(arguments.environment, checkpoint, bundle, scratch / "peer")
    paths = {f"ours {graph.precision}": scratch / "ours" / graph.file for graph in ours.graphs}
    theirs = {f"{form} {p}": scratch / "peer" / f"{form}.{p}.onnx" for form in PEER_FORMS for p in PRECISIONS}
    paths |= {graph: path for graph, path in theirs.items() if path.is_file()}
    runs = {graph: session_runner(create_session(path), ours.tasks) for graph, path in paths.items()}
    encoder = TextEncoder.load(checkpoint / TOKENIZER_FILE, student.inputs)
    measured = time_graphs(runs, encoder, texts, arguments.rounds)
    in_use = time_graphs(runs, encoder, many, min(arguments.rounds, IN_USE_ROUNDS), in_use=True)
    return {
        "ratios": ratios(measured),
        "in_use": ratios(in_use),
        "parity": compare_with_torch(student, ours, runs, encoder, texts),
        "bytes": {graph: path.stat().st_size for graph, path in paths.items()},
        "measurements": msgspec.to_builtins([*measured, *in_use]),
        "peer": peer,
    }


def open_student(checkpoint: Path) -> Student:
    """A checkpoint as `export` takes it."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    task = TaskSpec(name=TASK, type="classification", labels=tuple(map(str, range(model.config.num_labels))))
    names = INPUT_NAMES if getattr(model.config, "type_vocab_size", 0) > 1 else INPUT_NAMES[:2]
    inputs = InputSpec(names=names, pad_id=model.config.pad_token_id, max_length=MAX_LENGTH, text_columns=("text",))
    return Student(SingleTask(model).eval(), model.config, checkpoint, [task], inputs)


def make_bundle(student: Student, scratch: Path, texts: Texts) -> Path:
    """A bundle of the exported graphs, measured on the torch model's own answers."""
    encoder = TextEncoder.load(student.tokenizer_folder / TOKENIZER_FILE, student.inputs)
    labels = run_texts(torch_runner(student.model), encoder, encoder.encode(texts))[TASK].argmax(axis=1)
    sample = Sample(texts, labels, lambda expected, given: float((expected == given).mean()))
    measured = measure(scratch / "ours", student.model, {TASK: sample})
    assemble_bundle(scratch / "ours", measured, scratch / "bundle", name="peer", version="1")
    return scratch / "bundle"


def compare_with_torch(
    student: Student, ours: Candidate, runs: Mapping[str, Runner], encoder: TextEncoder, texts: Texts
) -> dict[str, Any]:
    """Logits of every graph against the torch model, in all shapes."""
    reference = torch_runner(student.model)
    found = {graph: compare(reference, run, encoder, texts, ours.tasks)[TASK] for graph, run in runs.items()}
    return {graph: msgspec.to_builtins(parity) for graph, parity in found.items()}


def time_graphs(
    runs: Mapping[str, Runner], encoder: TextEncoder, texts: Texts, rounds: int, *, in_use: bool = False
) -> list[Measurement]:
    """Every graph of a precision beside the others of it; in use, the peer's get their texts as they come."""

    def variant(name: str, precision: str) -> Variant:
        group = keep_order if in_use and not name.startswith("ours") else None
        return Variant(name, "onnxruntime", precision, "cpu", 1, runs[name], group=group)

    return [
        measurement
        for precision in PRECISIONS
        for measurement in run_benchmark(
            [variant(name, precision) for name in runs if name.endswith(precision)],
            encoder,
            texts,
            batch_sizes=(IN_USE_BATCH,) if in_use else BATCHES,
            pace=Pace(rounds=rounds, settle_seconds=0.0),
        )
    ]


def ratios(measured: Sequence[Measurement]) -> list[dict[str, Any]]:
    """The peer's time over ours, per precision, batch size and form of the peer."""
    cells = []
    for ours in (m for m in measured if m.variant.startswith("ours")):
        for theirs in measured:
            if theirs is ours or (theirs.precision, theirs.batch_size) != (ours.precision, ours.batch_size):
                continue
            ratio, low, high = compare_variants(theirs, ours)
            cell = {"precision": ours.precision, "batch_size": ours.batch_size, "peer": theirs.variant.split()[0]}
            cells.append({**cell, "ratio": ratio, "low": low, "high": high})
    return cells


def ask_peer(environment: Path, checkpoint: Path, bundle: Path, folder: Path) -> dict[str, Any]:
    """Let the peer export the checkpoint and read the bundle, in its own environment."""
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", *PEER_PACKAGES], check=True)
    folder.mkdir()
    script = Path(__file__).with_name("peer_export.py")
    subprocess.run([python, script, checkpoint, folder, "--bundle", bundle], check=True)
    made: dict[str, Any] = json.loads((folder / "peer.json").read_text())
    return made


def read_texts(path: Path, num_texts: int) -> list[tuple[str, ...]]:
    """The first texts of a .jsonl file with a column `text`."""
    lines = path.read_text(encoding="utf-8").splitlines()[:num_texts]
    return [(json.loads(line)["text"],) for line in lines]


def _parse(options: Sequence[str] | None) -> argparse.Namespace:
    corpus = HERE.parent / "compressor" / "data" / "corpora" / "supportdesk"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True, help="of the peer; made if not there")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "peer_export.json")
    parser.add_argument("--docs", type=Path, default=DOCS, help="page that gets the table")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=DEFAULT_ARCHITECTURES)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=384, help="of the random models, a multiple of 32")
    parser.add_argument("--texts", type=Path, default=corpus / "test.jsonl", help=".jsonl with a column text")
    parser.add_argument("--num-texts", type=int, default=32)
    parser.add_argument("--num-texts-in-use", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="tiny random models; shows only that it runs")
    arguments = parser.parse_args(options)
    if arguments.quick:
        arguments.layers, arguments.width, arguments.rounds = 1, 64, 3
        arguments.num_texts, arguments.num_texts_in_use = 8, 16
    return arguments


if __name__ == "__main__":
    main()
