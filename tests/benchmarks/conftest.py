"""A toy data set and a toy checkpoint on disk, and `benchmarks` on the path: it is no installed package."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

TOPICS = {"billing": "money refund card", "delivery": "late arrived order", "account": "cancel account help"}


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT of two layers with its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *" ".join(TOPICS.values()).split()]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_attention_heads=4, intermediate_size=37, num_hidden_layers=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `trec6`, a folder of splits of 60, 30 and 30 rows with the columns text and label."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "trec6"
    folder.mkdir()
    for start, (split, number) in enumerate((("train", 60), ("validation", 30), ("test", 30))):
        rows = [_row(1000 * start + index) for index in range(number)]
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return root


def _row(index: int) -> dict[str, str]:
    label = list(TOPICS)[index % len(TOPICS)]
    words = TOPICS[label].split()
    return {"text": f"{words[index % 3]} {words[index // 3 % 3]} {'help ' * (index % 5)}{index}", "label": label}


@pytest.fixture
def two_domains(toy_data: Path, tmp_path: Path) -> Path:
    """Toy rows under the names of two domains."""
    for name in ("amazon_kitchen", "amazon_books"):
        shutil.copytree(toy_data / "trec6", tmp_path / "data" / name)
    for path in (tmp_path / "data" / "amazon_books").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "text": f"a book: {row['text']}"}) + "\n" for row in rows))
    return tmp_path / "data"
