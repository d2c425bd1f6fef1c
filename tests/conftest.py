"""What tests of several floors share: toy checkpoints and data (no network, seconds of work), and a real browser."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)
from transformers.utils import logging as transformers_logging

from compressor.data.splits import Split, TaskData
from serving.manifest import TaskSpec

WORDS = [
    "the",
    "card",
    "order",
    "money",
    "refund",
    "please",
    "cancel",
    "my",
    "account",
    "help",
    "now",
    "late",
    "broken",
    "never",
    "arrived",
    "thanks",
]
TOPICS = {
    "billing": ["money", "refund", "card"],
    "delivery": ["late", "arrived", "order"],
    "account": ["account", "cancel"],
}
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 37}

CONFIGS: dict[str, Callable[[int], PreTrainedConfig]] = {
    "bert": lambda vocab: BertConfig(vocab_size=vocab, num_hidden_layers=4, **SMALL),
    "distilbert": lambda vocab: DistilBertConfig(vocab_size=vocab, dim=32, n_heads=4, hidden_dim=37, n_layers=4),
    "roberta": lambda vocab: RobertaConfig(
        vocab_size=vocab, num_hidden_layers=4, pad_token_id=0, max_position_embeddings=130, **SMALL
    ),
    "electra": lambda vocab: ElectraConfig(vocab_size=vocab, num_hidden_layers=4, embedding_size=16, **SMALL),
    "mpnet": lambda vocab: MPNetConfig(vocab_size=vocab, num_hidden_layers=4, pad_token_id=0, **SMALL),
    "deberta-v2": lambda vocab: DebertaV2Config(
        vocab_size=vocab,
        num_hidden_layers=4,
        relative_attention=True,
        position_buckets=16,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        **SMALL,
    ),
}
ARCHITECTURES = list(CONFIGS)

# an example that a busy machine makes slow is no fault
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection: a training ends with one, half the time of a toy training."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _quiet_transformers() -> None:
    transformers_logging.disable_progress_bar()


def toy_tokenizer(*more: str) -> PreTrainedTokenizerFast:
    """Of the toy words, and of special tokens behind them."""
    vocab = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *more])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="session")
def masked_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random masked language model over the toy words."""
    tokenizer = toy_tokenizer("[MASK]")
    tokenizer.mask_token = "[MASK]"
    folder = tmp_path_factory.mktemp("masked-lm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForMaskedLM.from_config(CONFIGS["bert"](len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return toy_tokenizer()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory of tiny random sequence-classification checkpoints: (architecture, labels) -> folder."""

    def make(architecture: str = "bert", labels: tuple[str, ...] = ("billing", "delivery", "account")) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        own = toy_tokenizer()
        config = CONFIGS[architecture](len(own))
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        own.save_pretrained(folder)
        return folder

    return make


def toy_rows(number: int, seed: int = 0) -> list[dict[str, object]]:
    """Texts whose words tell their topic, with an urgency in [0, 5] and a list of flags."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for index in range(number):
        topic = list(TOPICS)[index % len(TOPICS)]
        words = [*rng.choice(WORDS, size=rng.integers(2, 9)), *rng.choice(TOPICS[topic], size=2)]
        rng.shuffle(words)
        text = f"{' '.join(words)} {index}{seed}"
        flags = [flag for flag in ("angry", "polite") if rng.random() < 0.5]
        rows.append({"text": text, "topic": topic, "urgency": float(rng.integers(0, 11)) / 2, "flags": flags})
    return rows


@pytest.fixture
def toy_file(tmp_path: Path) -> Path:
    """A jsonl file of 240 rows with the columns text, topic, urgency and flags."""
    path = tmp_path / "toy.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in toy_rows(240)) + "\n")
    return path


@pytest.fixture
def toy_data() -> TaskData:
    """A three-class task with 96, 24 and 24 rows, and 12 unlabelled ones."""
    task = TaskSpec(name="topic", type="classification", labels=tuple(TOPICS), metric="accuracy")

    def split(number: int, seed: int) -> Split:
        rows = toy_rows(number, seed)
        return Split(
            [(str(row["text"]),) for row in rows],
            np.array([list(TOPICS).index(str(row["topic"])) for row in rows]),
        )

    splits = {
        "train": split(96, 1),
        "validation": split(24, 2),
        "test": split(24, 3),
        "unlabelled": Split(split(12, 4).texts),
    }
    return TaskData(task, splits, ("text",))


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[dict[str, object]]]:
    """`toy_rows` for tests that need other numbers or seeds."""
    return toy_rows


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a network; for one module, since its event loop forbids any other meanwhile.

    Missing: the tests that need it are skipped, or fail where COMPRESSOR_REQUIRE_BROWSER is 1.
    """
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        reason = "there is no chromium on the path; install it to look at pages as a reader does"
        if os.environ.get("COMPRESSOR_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=quiet)
        yield browser
        browser.close()
