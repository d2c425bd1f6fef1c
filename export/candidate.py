"""A candidate: the graphs of a student with everything they are read with, and no claim about them yet."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from export.config import CONFIG_FILE, write_config
from export.graph import SINGLE_OUTPUT, export_graph
from export.optimise import fuse_attention
from export.parity.rungs import PLAIN, TORCH
from export.precision import ir_version_of, opset_of
from export.quantise.material import Quantising
from export.quantise.quantiser import PRECISIONS as QUANTISED
from export.quantise.quantiser import Quantiser
from export.quantise.summary import QuantisationSummary
from export.simplify import simplify
from serving.errors import UserError
from serving.hashing import hash_file
from serving.manifest import InputSpec, TaskSpec
from serving.tokenise import TOKENIZER_FILE, TextEncoder

CANDIDATE_FILE = "candidate.json"
PLAIN_FILE = "rungs/plain.onnx"
PRECISIONS = ("fp32", *QUANTISED)
DEFAULT_PRECISIONS = ("fp32", "int8")
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "sentencepiece.bpe.model",
)


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """One ONNX file of a candidate.

    Attributes:
        precision: fp32, int8, ..., or plain for the graph that all others are made from.
        file: name inside the folder.
        sha256: of the file.
        bytes: size of the file.
        opset: of the default domain.
        ir_version: of the file.
        fused_attention: number of fused attention operators.
        note: what did not happen as it usually does; None when all did.
        quantisation: what became of every layer; None for fp32.
        made_from: the rung of the parity ladder that it is held against besides torch: torch, plain or a precision.
    """

    precision: str
    file: str
    sha256: str
    bytes: int
    opset: int
    ir_version: int
    fused_attention: int = 0
    note: str | None = None
    quantisation: QuantisationSummary | None = None
    made_from: str = PLAIN


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `candidate.json`.

    Attributes:
        tasks: what the graphs answer.
        inputs: how texts become their inputs.
        plain: the graph as torch exported it, simplified; it is measured, and not served.
        graphs: one per precision.
        files: the sha256 of tokenizer and config files.
    """

    tasks: tuple[TaskSpec, ...]
    inputs: InputSpec
    plain: Graph
    graphs: tuple[Graph, ...]
    files: dict[str, str]

    @property
    def notes(self) -> list[str]:
        """What did not happen to each graph as it usually does."""
        return [f"{graph.precision}: {graph.note}" for graph in (self.plain, *self.graphs) if graph.note]


@dataclass(frozen=True)
class Student:
    """What is exported.

    Attributes:
        model: forward(**inputs) returns a dict from task name to logits [batch, outputs].
        config: the encoder's transformers configuration; the written one gets the task's labels.
        tokenizer_folder: holds `tokenizer.json` and what else the tokenizer has.
        tasks: in the order of the graph's outputs; these get their names by `name_outputs`.
        inputs: how texts become the graph's inputs.
    """

    model: nn.Module
    config: Any
    tokenizer_folder: Path
    tasks: Sequence[TaskSpec]
    inputs: InputSpec


def export_candidate(
    student: Student,
    folder: Path,
    *,
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
    opset: int | None = None,
    quantising: Quantising | None = None,
) -> Candidate:
    """Write a student's graphs, tokenizer and config into a folder.

    Args:
        student: what to export.
        folder: made if it is not there.
        precisions: of `PRECISIONS`.
        opset: of the default domain; None for the default.
        quantising: which layers stay fp32 and the texts to decide it on; None: every layer is quantised, and
            precisions that need texts cannot be made.

    Raises:
        UserError: an unknown precision, no fast tokenizer, too large a model, nothing to quantise, no texts.
    """
    if unknown := [name for name in precisions if name not in PRECISIONS]:
        raise UserError(f"no precision '{unknown[0]}'. Choose among: {', '.join(PRECISIONS)}")
    if not precisions:
        raise UserError(f"no precision was asked for. Choose among: {', '.join(PRECISIONS)}")
    folder.mkdir(parents=True, exist_ok=True)
    tasks = name_outputs(student.tasks)
    names = _write_tokenizer(student.tokenizer_folder, folder)
    write_config(student.config, tasks, folder)
    plain = folder / PLAIN_FILE
    plain.parent.mkdir(exist_ok=True)
    traced = export_graph(student.model, student.inputs.names, tasks, plain, opset=opset)
    notes = [note for note in (traced, simplify(plain, student.inputs.max_length)) if note]
    encoder = TextEncoder.load(folder / TOKENIZER_FILE, student.inputs)
    quantiser = Quantiser(plain, encoder, tasks, quantising)
    graphs = tuple(_make_graph(name, quantiser, folder, student.config) for name in dict.fromkeys(precisions))
    candidate = Candidate(
        tasks=tasks,
        inputs=student.inputs,
        plain=_plain_graph(plain, "; ".join(notes) or None),
        graphs=graphs,
        files={name: hash_file(folder / name) for name in (*names, CONFIG_FILE)},
    )
    (folder / CANDIDATE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(candidate), indent=2))
    return candidate


def read_candidate(folder: Path) -> Candidate:
    """Read `candidate.json`; UserError when the folder is no candidate."""
    path = folder / CANDIDATE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Candidate)
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"'{folder}' is no export candidate ({error}). Run the export stage again.") from error


def check_files(folder: Path, candidate: Candidate) -> None:
    """UserError for a file of a candidate that is not there, or not the one that was exported."""
    hashes = candidate.files | {graph.file: graph.sha256 for graph in (candidate.plain, *candidate.graphs)}
    for name, expected in hashes.items():
        if not (folder / name).is_file() or hash_file(folder / name) != expected:
            raise UserError(f"'{folder / name}' is not the file that was exported. Run the export stage again.")


def name_outputs(tasks: Sequence[TaskSpec]) -> tuple[TaskSpec, ...]:
    """The tasks with the names of their outputs: `logits` for one task, `logits_<task>` for several."""
    if len(tasks) == 1:
        return (msgspec.structs.replace(tasks[0], output=SINGLE_OUTPUT),)
    return tuple(
        msgspec.structs.replace(task, output=f"{SINGLE_OUTPUT}_{task.name}") if task.output == SINGLE_OUTPUT else task
        for task in tasks
    )


def _plain_graph(path: Path, note: str | None) -> Graph:
    return Graph(
        precision=PLAIN,
        file=PLAIN_FILE,
        sha256=hash_file(path),
        bytes=path.stat().st_size,
        opset=opset_of(path),
        ir_version=ir_version_of(path),
        note=note,
        made_from=TORCH,
    )


def _make_graph(precision: str, quantiser: Quantiser, folder: Path, config: Any) -> Graph:
    path = folder / f"model.{precision}.onnx"
    fused_attention, note, quantisation = 0, None, None
    if precision in QUANTISED:
        quantisation = quantiser.write(precision, path)
        if quantisation.left_fp32:
            note = f"stayed fp32: {', '.join(quantisation.left_fp32)}"
    else:
        fusion = fuse_attention(quantiser.path, path, config)
        fused_attention, note = fusion.attention, fusion.note
    return Graph(
        precision=precision,
        file=path.name,
        sha256=hash_file(path),
        bytes=path.stat().st_size,
        opset=opset_of(path),
        ir_version=ir_version_of(path),
        fused_attention=fused_attention,
        note=note,
        quantisation=quantisation,
    )


def _write_tokenizer(source: Path, folder: Path) -> list[str]:
    if not (source / TOKENIZER_FILE).is_file():
        raise UserError(
            f"'{source}' has no {TOKENIZER_FILE}, and serving reads nothing else. "
            "Save the tokenizer in its fast form: AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    names = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    for name in names:
        shutil.copyfile(source / name, folder / name)
    return names
