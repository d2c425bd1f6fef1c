"""Tokens are hidden by BERT's rule, and logits at some places are those of the whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from compressor.models.masked_lm import load_masked_lm
from compressor.models.masked_places import Corruption, masked_logits, padded_batch

ARCHITECTURES = ["bert", "distilbert", "roberta", "electra", "mpnet", "deberta-v2"]
MASK = "thanks"  # the toy vocabulary has no mask token: one of its words takes the part


@pytest.fixture
def encoder(checkpoint: Callable[..., Path]) -> Callable[..., Path]:
    """A factory: architecture -> a checkpoint with a mask token and no masked-LM head."""

    def make(architecture: str = "bert") -> Path:
        folder = checkpoint(architecture)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"mask_token": MASK})
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_at_some_places_are_those_of_the_whole_model(architecture: str, encoder: Callable[..., Path]) -> None:
    """Catches places that are mixed up where the vocabulary's layer reads fewer rows, and a hook that stays."""
    network, tokenizer = load_masked_lm(str(encoder(architecture)), must_be_trained=False)
    rows = [{"input_ids": np.array(tokenizer(text)["input_ids"])} for text in ("the card is late now", "help")]
    inputs = padded_batch(network, rows, 0)
    is_masked = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    is_masked[0, 2], is_masked[0, 4], is_masked[1, 1] = True, True, True
    with torch.inference_mode():
        whole = network(**inputs).logits
        found = masked_logits(network, inputs, is_masked)
        assert network(**inputs).logits.equal(whole)
    assert found.shape == (3, whole.shape[-1])
    torch.testing.assert_close(found, whole[is_masked], rtol=1e-5, atol=1e-6)


def test_batches_are_padded_and_have_the_columns_the_model_knows(encoder: Callable[..., Path]) -> None:
    """Catches padding that is attended to, and pairs whose second text is told as the first."""
    rows = [
        {"input_ids": np.array([2, 5, 3, 6, 3]), "token_type_ids": np.array([0, 0, 0, 1, 1])},
        {"input_ids": np.array([2, 3]), "token_type_ids": np.array([0, 0])},
    ]
    batch = padded_batch(load_masked_lm(str(encoder("bert")), must_be_trained=False)[0], rows, 9)
    assert batch["input_ids"].tolist() == [[2, 5, 3, 6, 3], [2, 3, 9, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    plain = padded_batch(load_masked_lm(str(encoder("distilbert")), must_be_trained=False)[0], rows, 9)
    assert set(plain) == {"input_ids", "attention_mask"}


def corruption(encoder: Callable[..., Path], seed: int = 0) -> tuple[Corruption, Any]:
    tokenizer = AutoTokenizer.from_pretrained(encoder())
    return Corruption(tokenizer, seed), tokenizer


def test_a_seventh_of_the_tokens_is_guessed_by_the_rule_of_bert(encoder: Callable[..., Path]) -> None:
    """Catches special tokens or padding that are guessed, other shares than 15% and 80/10/10, and changed labels."""
    rule, tokenizer = corruption(encoder)
    ids = torch.full((200, 52), 5)
    ids[:, 0], ids[:, -2], ids[:, -1] = 2, 3, 0
    ids[:, 1] = 1  # unknown
    kept = ids.clone()
    shown, is_guessed = rule.apply(ids)
    assert ids.equal(kept)
    assert not is_guessed[:, [0, 1, -2, -1]].any()
    assert shown[~is_guessed].equal(ids[~is_guessed])
    assert float(is_guessed[:, 2:-2].float().mean()) == pytest.approx(0.15, abs=0.015)
    guessed = shown[is_guessed]
    assert float((guessed == tokenizer.mask_token_id).float().mean()) == pytest.approx(0.8, abs=0.04)
    foreign = guessed[(guessed != tokenizer.mask_token_id) & (guessed != 5)]
    assert len(foreign) / len(guessed) == pytest.approx(0.1, abs=0.03)
    assert not set(foreign.tolist()) & set(tokenizer.all_special_ids)
    assert len(set(foreign.tolist())) > 8


def test_a_short_batch_has_a_token_to_guess_and_an_empty_one_has_none(encoder: Callable[..., Path]) -> None:
    """Catches a loss of NaN from a batch in which nothing was hidden."""
    rule, _tokenizer = corruption(encoder)
    for _ in range(20):
        _shown, is_guessed = rule.apply(torch.tensor([[2, 7, 3, 0], [2, 8, 3, 0]]))
        assert is_guessed.any()
    shown, is_guessed = rule.apply(torch.tensor([[2, 1, 3, 0]]))
    assert not is_guessed.any()
    assert shown.tolist() == [[2, 1, 3, 0]]


def test_what_is_hidden_follows_the_seed_and_changes_from_batch_to_batch(encoder: Callable[..., Path]) -> None:
    """Catches the same places guessed in every epoch."""
    ids = torch.full((8, 40), 6)
    one, same, other = (corruption(encoder, seed)[0] for seed in (0, 0, 1))
    first = one.apply(ids)[0]
    assert first.equal(same.apply(ids)[0])
    assert not first.equal(other.apply(ids)[0])
    assert not first.equal(one.apply(ids)[0])
