"""Our artifacts against those of optimum-onnx 0.1.0, from one checkpoint, in one process.

Both sides' graphs run through the same ONNX Runtime with the same session settings, one thread, interleaved,
on texts with their own lengths. The ratio of a cell is the peer's time over ours, paired by round, with its
95% interval; the goal is a lower end of at least 0.97 against each of the peer's graphs of that precision.
Logits of all graphs are held against the torch model.

    python benchmarks/peer_optimum.py --environment FOLDER --output peer_optimum.json

The peer needs transformers below 4.58, so it works in an environment of its own, made on the first call.
Without `--checkpoint` the built-in teacher is cut to `--layers` and gets a random head: speed does not depend
on training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compressor.models.resolve import resolve_model
from export.benchmark import Measurement, Pace, Variant, compare_variants, run_benchmark
from export.candidate import Student, export_candidate
from export.parity import compare
from export.runners import session_runner, torch_runner
from serving.host import describe_host
from serving.manifest import InputSpec, TaskSpec
from serving.session import create_session
from serving.tokenise import TOKENIZER_FILE, TextEncoder

BUILT_IN = "sentence-transformers/all-MiniLM-L6-v2"
NUM_LABELS = 12
MAX_LENGTH = 128
GOAL = 0.97
PEER_PACKAGES = ("optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.*", "torch==2.13.0")
PEER_FORMS = ("plain", "o2")
PRECISIONS = ("fp32", "int8")
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


class SingleTask(nn.Module):
    """A sequence classifier in the form that `export` takes."""

    def __init__(self, model: nn.Module, task: str) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits under the task's name, [batch, labels]."""
        return {self.task: self.model(**inputs).logits}


def main() -> None:
    """Make both sides' graphs, check them, time them, write JSON and print the table."""
    arguments = _parse()
    texts = _read_texts(arguments.texts, arguments.num_texts)
    with tempfile.TemporaryDirectory() as scratch:
        result = _measure(arguments, Path(scratch), texts)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for cell in result["ratios"]:
        mark = "reached" if cell["low"] >= GOAL else "MISSED"
        print(
            f"{cell['precision']} batch {cell['batch_size']} against {cell['peer']:5}: "
            f"{cell['ratio']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})  {mark}"
        )


def _measure(arguments: argparse.Namespace, scratch: Path, texts: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    checkpoint = arguments.checkpoint or _cut_built_in(arguments.layers, scratch / "checkpoint")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    task = TaskSpec(name="task", type="classification", labels=tuple(map(str, range(model.config.num_labels))))
    names = INPUT_NAMES if getattr(model.config, "type_vocab_size", 0) > 1 else INPUT_NAMES[:2]
    inputs = InputSpec(names=names, pad_id=model.config.pad_token_id, max_length=MAX_LENGTH, text_columns=("text",))
    student = Student(SingleTask(model, task.name).eval(), model.config, checkpoint, [task], inputs)
    candidate = export_candidate(student, scratch / "ours", precisions=PRECISIONS)
    peer = _peer_export(arguments.environment, checkpoint, scratch / "peer")
    paths = {f"ours {graph.precision}": scratch / "ours" / graph.file for graph in candidate.graphs}
    paths |= {f"{form} {p}": scratch / "peer" / f"{form}.{p}.onnx" for form in PEER_FORMS for p in PRECISIONS}

    encoder = TextEncoder.load(checkpoint / TOKENIZER_FILE, inputs)
    runs = {name: session_runner(create_session(path), candidate.tasks) for name, path in paths.items()}
    parity = {
        name: compare(torch_runner(student.model), run, encoder, texts, candidate.tasks)[task.name]
        for name, run in runs.items()
    }
    measured = [
        measurement
        for precision in PRECISIONS
        for measurement in run_benchmark(
            [Variant(n, "onnxruntime", precision, "cpu", 1, r) for n, r in runs.items() if precision in n],
            encoder,
            texts,
            pace=Pace(rounds=arguments.rounds, settle_seconds=0.0),
        )
    ]
    return {
        "goal": GOAL,
        "ratios": _ratios(measured),
        "parity": msgspec.to_builtins(parity),
        "bytes": {name: path.stat().st_size for name, path in paths.items()},
        "measurements": msgspec.to_builtins(measured),
        "peer": peer,
        "texts": len(texts),
        "rounds": arguments.rounds,
        "layers": arguments.layers,
        "host": describe_host(),
    }


def _ratios(measured: Sequence[Measurement]) -> list[dict[str, Any]]:
    cells = []
    for ours in (m for m in measured if m.variant.startswith("ours")):
        for theirs in measured:
            if theirs is ours or (theirs.precision, theirs.batch_size) != (ours.precision, ours.batch_size):
                continue
            ratio, low, high = compare_variants(theirs, ours)
            cells.append(
                {
                    "precision": ours.precision,
                    "batch_size": ours.batch_size,
                    "peer": theirs.variant.split()[0],
                    "ratio": ratio,
                    "low": low,
                    "high": high,
                }
            )
    return cells


def _cut_built_in(layers: int, folder: Path) -> Path:
    source = resolve_model(BUILT_IN)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=NUM_LABELS)
    model.bert.encoder.layer = model.bert.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    nn.init.normal_(model.classifier.weight, std=1.0)  # logits of the size that trained heads give
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def _peer_export(environment: Path, checkpoint: Path, folder: Path) -> dict[str, Any]:
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", *PEER_PACKAGES], check=True)
    folder.mkdir()
    script = Path(__file__).with_name("peer_export.py")
    subprocess.run([python, script, checkpoint, folder], check=True)
    made: dict[str, Any] = json.loads((folder / "peer.json").read_text())
    return made


def _read_texts(path: Path, num_texts: int) -> list[tuple[str, ...]]:
    """The first texts of a .jsonl file with a column `text`."""
    lines = path.read_text(encoding="utf-8").splitlines()[:num_texts]
    return [(json.loads(line)["text"],) for line in lines]


def _parse() -> argparse.Namespace:
    corpus = Path(__file__).parents[1] / "compressor" / "data" / "corpora" / "supportdesk"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True, help="of the peer; made if not there")
    parser.add_argument("--output", type=Path, default=Path("peer_optimum.json"))
    parser.add_argument("--checkpoint", type=Path, help="a sequence classifier; default: the built-in one")
    parser.add_argument("--layers", type=int, default=3, help="of the built-in checkpoint")
    parser.add_argument("--texts", type=Path, default=corpus / "test.jsonl", help=".jsonl with a column text")
    parser.add_argument("--num-texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=40)
    return parser.parse_args()


if __name__ == "__main__":
    main()
