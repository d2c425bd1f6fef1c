"""Students of one, three and eight tasks with fresh heads, as bundles: for measuring time, bytes and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel, RobertaConfig

from compressor.models.checkpoint import save_checkpoint
from compressor.models.initialise import keep_layers, load_config, load_encoder, load_tokenizer
from compressor.models.inputs import describe_inputs
from compressor.models.resolve import resolve_model
from compressor.models.task_model import TaskModel, new_head
from compressor.tasks.registry import TASKS
from export.bundle import assemble_bundle
from export.candidate import Student, export_candidate, read_candidate
from export.gates import Limits
from export.measure import measure
from export.runners import run_texts, torch_runner
from export.sample import Sample
from serving.answers import decide
from serving.manifest import TaskSpec, TaskType
from serving.model import OnnxModel
from serving.session import create_session
from serving.tokenise import TOKENIZER_FILE, TextEncoder

SIZES = (1, 3, 8)
LABELS = {"intent": 12, "sentiment": 3, "urgency": 0}
MAX_LENGTH = 128
Texts = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Exported:
    """A student with its graphs.

    Attributes:
        model: the torch student.
        folder: holds `checkpoint`, `candidate` and, once `bundle_of` was called, `bundle`.
    """

    model: TaskModel
    folder: Path

    def graph(self, precision: str) -> OnnxModel:
        """One of its graphs, on one thread."""
        candidate = read_candidate(self.folder / "candidate")
        encoder = TextEncoder.load(self.folder / "candidate" / TOKENIZER_FILE, candidate.inputs)
        session = create_session(self.folder / "candidate" / f"model.{precision}.onnx")
        return OnnxModel(session, encoder, candidate.tasks)


@dataclass(frozen=True)
class Shape:
    """What all students of a model share.

    Attributes:
        base: checkpoint that has the tokenizer and the sizes.
        layers: of a student.
        is_pretrained: whether its encoder is the checkpoint's; else a RoBERTa of its sizes with random weights.
    """

    base: str
    layers: int
    is_pretrained: bool


def make_students(shape: Shape, folder: Path) -> dict[int, Exported]:
    """Students with 1, 3 and 8 tasks on the same encoder; the first task of each is the same head."""
    encoder = _encoder(shape)
    tasks = [_task(place) for place in range(max(SIZES))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        heads = {task.name: new_head(encoder.config, task) for task in tasks}
    return {size: _export(TaskModel(encoder, heads, tasks[:size]), shape.base, folder / str(size)) for size in SIZES}


def split_student(made: Exported, base: str, folder: Path) -> list[Exported]:
    """A student of its own for every task: the same encoder and the same head."""
    model = made.model
    return [
        _export(
            TaskModel(model.encoder, {task.name: cast(PreTrainedModel, model.head(task.name))}, [task]),
            base,
            folder / task.name,
        )
        for task in model.tasks
    ]


def bundle_of(made: Exported, texts: Texts) -> Path:
    """A student's bundle; its own answers stand for labels, since only its speed is asked for."""
    graph = made.graph("fp32")
    logits = run_texts(torch_runner(made.model), graph.encoder, graph.encoder.encode(texts))
    samples = {
        task.name: Sample(
            texts, decide(logits[task.name], task), TASKS[task.type].metrics[task.metric], label_names=task.labels
        )
        for task in graph.tasks
    }
    limits = Limits(quantisation_metric_drop=2.0, allow_inconclusive=True)
    candidate, bundle = made.folder / "candidate", made.folder / "bundle"
    measured = measure(candidate, made.model, samples, limits=limits)
    assemble_bundle(candidate, measured, bundle, name="toy", version="1")
    return bundle


def _export(model: TaskModel, base: str, folder: Path) -> Exported:
    tokenizer = load_tokenizer(base)
    save_checkpoint(folder / "checkpoint", model.eval(), tokenizer)
    inputs = describe_inputs(model, tokenizer, max_length=MAX_LENGTH, text_columns=("text",))
    student = Student(model, model.config, folder / "checkpoint", model.tasks, inputs)
    export_candidate(student, folder / "candidate")
    return Exported(model, folder)


def _task(place: int) -> TaskSpec:
    """The tasks of supportdesk, again and again."""
    name, num_labels = list(LABELS.items())[place % len(LABELS)]
    labels = tuple(f"label{index}" for index in range(num_labels))
    kind: TaskType = "classification" if labels else "regression"
    return TaskSpec(name=f"{name}{place}", type=kind, labels=labels, metric="accuracy" if labels else "pearson")


def _encoder(shape: Shape) -> PreTrainedModel:
    if shape.is_pretrained:
        return keep_layers(load_encoder(resolve_model(shape.base)), shape.layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        full = AutoModelForSequenceClassification.from_config(_like(load_config(shape.base), shape.layers))
    encoder: PreTrainedModel = full.base_model
    return encoder


def _like(config: PreTrainedConfig, layers: int) -> RobertaConfig:
    """RoBERTa's architecture in another BERT's sizes."""
    names = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    sizes: Mapping[str, int] = {name: getattr(config, name) for name in names}
    return RobertaConfig(**sizes, num_hidden_layers=layers, pad_token_id=0, type_vocab_size=1)
