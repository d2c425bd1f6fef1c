"""Tiny random models of six architectures, a word-level tokenizer, and a candidate made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
)

from export.bundle import assemble_bundle
from export.candidate import Candidate, Student, export_candidate
from export.gates import Limits
from export.measure import Measurements, measure
from export.runners import run_texts, torch_runner
from export.sample import Sample
from serving.manifest import InputSpec, TaskSpec
from serving.tokenise import TextEncoder

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{number}" for number in range(60)))
MAX_LENGTH = 24
INTENT = TaskSpec(name="intent", type="classification", labels=("a", "b", "c"), metric="accuracy")
URGENCY = TaskSpec(name="urgency", type="regression", range=(1.0, 5.0), metric="pearson")
INPUTS = InputSpec(names=("input_ids", "attention_mask"), pad_id=0, max_length=MAX_LENGTH, text_columns=("text",))

# Weights far larger than a fresh model's, so that a wrong mask or position moves the logits visibly.
_SHAPE: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**_SHAPE),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=len(WORDS),
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=48,
        max_position_embeddings=64,
        initializer_range=0.4,
    ),
    "roberta": lambda: RobertaConfig(**_SHAPE),
    "electra": lambda: ElectraConfig(**_SHAPE, embedding_size=16),
    "mpnet": lambda: MPNetConfig(**_SHAPE),
    "deberta-v2": lambda: DebertaV2Config(
        **_SHAPE,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=8,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
    ),
}


class Heads(nn.Module):
    """Several sequence classifiers behind the interface of a student: a dict from task name to logits."""

    def __init__(self, models: dict[str, nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleDict(models)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Logits per task, [batch, outputs]."""
        return {name: model(**inputs).logits for name, model in self.models.items()}


def make_config(architecture: str, num_labels: int = 3) -> Any:
    """A tiny configuration of an architecture."""
    config = CONFIGS[architecture]()
    config.num_labels = num_labels
    return config


def make_model(architecture: str, tasks: tuple[TaskSpec, ...] = (INTENT,)) -> Heads:
    """A tiny random student in eval mode; the same one at every call."""
    torch.manual_seed(0)
    return Heads(
        {
            task.name: AutoModelForSequenceClassification.from_config(make_config(architecture, task.num_outputs))
            for task in tasks
        }
    ).eval()


def make_texts(num_texts: int = 40, seed: int = 0) -> list[tuple[str, ...]]:
    """Random words, between one of them and more than fit."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, MAX_LENGTH + 4, size=num_texts)
    return [(" ".join(f"word{w}" for w in generator.integers(0, 60, size=length)),) for length in lengths]


def save_tokenizer(folder: Path) -> None:
    """Write a word-level `tokenizer.json`."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def double_weight(model: onnx.ModelProto, name: str) -> None:
    """Change one tensor of a graph."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2 + 0.1, name))


def accuracy(labels: Any, predictions: Any) -> float:
    """Share of equal entries."""
    return float(np.mean(np.asarray(labels) == np.asarray(predictions)))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(tokenizer_folder: Path) -> TextEncoder:
    """Tokenises for every tiny model."""
    return TextEncoder.load(tokenizer_folder / "tokenizer.json", INPUTS)


@pytest.fixture(scope="session")
def student(tokenizer_folder: Path) -> Student:
    """A tiny BERT with one task."""
    return Student(make_model("bert"), make_config("bert"), tokenizer_folder, (INTENT,), INPUTS)


@pytest.fixture(scope="session")
def candidate(student: Student, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Candidate]:
    """The tiny BERT exported in fp32 and int8; tests must not change the folder."""
    folder = tmp_path_factory.mktemp("candidate")
    return folder, export_candidate(student, folder)


@pytest.fixture(scope="session")
def sample(student: Student, encoder: TextEncoder) -> Sample:
    """Texts with the tiny BERT's own answers as labels, one in ten of them wrong."""
    texts = make_texts(60)
    labels = run_texts(torch_runner(student.model), encoder, encoder.encode(texts))["intent"].argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % 3
    return Sample(texts, labels, accuracy)


@pytest.fixture(scope="session")
def measurements(candidate: tuple[Path, Candidate], student: Student, sample: Sample) -> Measurements:
    """The tiny BERT's artifacts, measured."""
    limits = Limits(quantisation_metric_drop=0.5)
    return measure(candidate[0], student.model, {"intent": sample}, limits=limits)


@pytest.fixture
def bundle_folder(candidate: tuple[Path, Candidate], measurements: Measurements, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    assemble_bundle(candidate[0], measurements, tmp_path / "bundle", name="toy", version="1")
    return tmp_path / "bundle"
