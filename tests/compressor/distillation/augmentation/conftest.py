"""Toy masked language models over the three kinds of vocabularies: word pieces, bytes, and marked white space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KNOWN = ["[unused1]", "the", "card", "order", "money", "refund", "help", "late", "now", "don", "t", "1", "50"]
PIECES = ["##ing", "##ed", "##s", "##50"]
MARKS = [".", ",", "!", "?", "'", "$", "("]
CORPUS = [
    "The card never arrived, please help now!",
    "I don't want the refund of $1.50 for my order.",
    "Helping helped the helpers: ordering cards late (again)?",
    "Where is my money, and why was the order cancelled?",
] * 5


def _specials(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _wordpiece() -> Tokenizer:
    vocabulary = {token: place for place, token in enumerate([*SPECIAL, *KNOWN, *PIECES, *MARKS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _bytes() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


def _metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False)
    )
    return tokenizer


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=_specials(tokenizer), **dict(zip(names, SPECIAL, strict=True)))


def _network(kind: str, size: int) -> Any:
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 20, "num_hidden_layers": 2}
    configs: dict[str, Callable[[], tuple[Any, PreTrainedConfig]]] = {
        "wordpiece": lambda: (BertForMaskedLM, BertConfig(vocab_size=size, **small)),
        "bytes": lambda: (RobertaForMaskedLM, RobertaConfig(vocab_size=size, pad_token_id=0, **small)),
        "metaspace": lambda: (
            DistilBertForMaskedLM,
            DistilBertConfig(vocab_size=size, dim=16, n_heads=2, hidden_dim=20, n_layers=2),
        ),
    }
    network, config = configs[kind]()
    return network(config).eval()


@pytest.fixture(scope="session")
def toy_masked_lm() -> Callable[[str], tuple[Any, PreTrainedTokenizerFast]]:
    """A factory: kind of vocabulary, one of wordpiece, bytes and metaspace -> (random masked LM, tokenizer)."""
    made: dict[str, tuple[Any, PreTrainedTokenizerFast]] = {}
    makers = {"wordpiece": _wordpiece, "bytes": _bytes, "metaspace": _metaspace}

    def make(kind: str) -> tuple[Any, PreTrainedTokenizerFast]:
        if kind not in made:
            tokenizer = _fast(makers[kind]())
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made[kind] = _network(kind, len(tokenizer)), tokenizer
        return made[kind]

    return make


class FixedLogits(nn.Module):
    """Stands for a masked language model that gives every place the same logits, and remembers what it was shown."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.config = BertConfig(vocab_size=len(logits))
        self.table: nn.Module = nn.Embedding(len(logits), 2, _weight=torch.zeros(len(logits), 2))
        self.shown: list[torch.Tensor] = []

    def get_input_embeddings(self) -> nn.Module:
        """A table of the vocabulary's size."""
        return self.table

    def get_output_embeddings(self) -> None:
        """None: there is no layer to be asked for some places alone."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """The fixed logits, [batch, tokens, vocabulary]."""
        self.shown.append(input_ids.clone())
        assert attention_mask.shape == input_ids.shape

        class Output:
            logits = self.logits.expand(*input_ids.shape, -1).clone()

        return Output()


@pytest.fixture
def fixed_lm(toy_masked_lm: Callable[[str], tuple[Any, PreTrainedTokenizerFast]]) -> Callable[..., tuple[Any, Any]]:
    """A factory: tokens, most likely first -> (word-piece model that says so everywhere, its tokenizer)."""

    def make(*likely: str) -> tuple[FixedLogits, PreTrainedTokenizerFast]:
        tokenizer = toy_masked_lm("wordpiece")[1]
        logits = torch.zeros(len(tokenizer))
        for place, token in enumerate(likely):
            logits[tokenizer.convert_tokens_to_ids(token)] = 50.0 - place
        return FixedLogits(logits), tokenizer

    return make


@pytest.fixture
def global_random_state_stays() -> Iterator[None]:
    """The global generators must not move in a test: a training beside it would change."""
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state(legacy=False)
    yield
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    after: Any = np.random.get_state(legacy=False)
    assert str(after) == str(numpy_state)
