"""Checkpoints of five architectures to export: the built-in teacher cut short, and random ones of the same shape.

Speed does not depend on training, and whether a graph repeats a model does not either; random weights are drawn larger
than a fresh model's, so that a wrong mask or position moves the logits. All read the built-in tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)

from compressor.models.resolve import resolve_model

BUILT_IN = "sentence-transformers/all-MiniLM-L6-v2"
NUM_LABELS = 12
HEAD_STD = 1.0
"""Logits of the size that trained heads give."""
WEIGHT_STD = 0.08


@dataclass(frozen=True)
class Shape:
    """Size of a random encoder; attention heads are 32 wide."""

    layers: int = 3
    width: int = 384

    @property
    def common(self) -> dict[str, Any]:
        """The configuration's fields that most architectures share."""
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // 32,
            "intermediate_size": 4 * self.width,
            "initializer_range": WEIGHT_STD,
            "pad_token_id": 0,
        }


def _deberta(vocabulary: int, shape: Shape) -> Any:
    return DebertaV2Config(
        vocab_size=vocabulary, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=64,
        share_att_key=True, norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0, **shape.common,
    )  # fmt: skip


def _distilbert(vocabulary: int, shape: Shape) -> Any:
    return DistilBertConfig(
        vocab_size=vocabulary, dim=shape.width, n_layers=shape.layers, n_heads=shape.width // 32,
        hidden_dim=4 * shape.width, initializer_range=WEIGHT_STD, pad_token_id=0,
    )  # fmt: skip


ARCHITECTURES: dict[str, Callable[[int, Shape], Any]] = {
    "bert": lambda vocabulary, shape: BertConfig(vocab_size=vocabulary, **shape.common),
    "distilbert": _distilbert,
    "roberta": lambda vocabulary, shape: RobertaConfig(
        vocab_size=vocabulary, max_position_embeddings=514, type_vocab_size=1, **shape.common
    ),
    "electra": lambda vocabulary, shape: ElectraConfig(vocab_size=vocabulary, embedding_size=128, **shape.common),
    "deberta-v2": _deberta,
    "albert": lambda vocabulary, shape: AlbertConfig(vocab_size=vocabulary, embedding_size=128, **shape.common),
}
DEFAULT_ARCHITECTURES = ("bert", "distilbert", "roberta", "electra", "deberta-v2")


def make_checkpoint(architecture: str, shape: Shape, folder: Path) -> Path:
    """Write a sequence classifier with random weights and the built-in tokenizer; the same one at every call."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(BUILT_IN))
    config = ARCHITECTURES[architecture](len(tokenizer), shape)
    config.num_labels = NUM_LABELS
    torch.manual_seed(0)
    _save(AutoModelForSequenceClassification.from_config(config), tokenizer, folder)
    return folder


def cut_built_in(layers: int, folder: Path) -> Path:
    """Write the built-in teacher with its first layers and a random head."""
    source = resolve_model(BUILT_IN)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=NUM_LABELS, ignore_mismatched_sizes=True
    )
    model.bert.encoder.layer = model.bert.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    _save(model, AutoTokenizer.from_pretrained(source), folder)
    return folder


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    heads = [part for part in model.modules() if isinstance(part, nn.Linear) and part.out_features == NUM_LABELS]
    nn.init.normal_(heads[-1].weight, std=HEAD_STD)
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
