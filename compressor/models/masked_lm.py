"""Masked language models: loading one, and training one on some texts from a pretrained encoder.

The task is that of Devlin et al. (2019), arXiv:1810.04805 (BERT), see `masked_places`; the settings of the training are
ours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from compressor.data.batches import Tokens, tokenise
from compressor.data.order import LengthGroupedBatchSampler
from compressor.models.initialise import (
    LOADING_ERRORS,
    expecting_fresh_heads,
    load_config,
    load_tokenizer,
    max_tokens,
)
from compressor.models.masked_places import Corruption, masked_logits, padded_batch
from compressor.models.resolve import resolve_model
from serving.errors import UserError

MASKED_LM_FILE = "masked_lm.json"
LEARNING_RATE = 3e-4
BATCH_SIZE = 16
_WARMUP = 0.1
_LARGEST_NORM = 1.0


@dataclass(frozen=True)
class Adaptation:
    """How a masked language model is adapted.

    Attributes:
        epochs: passes over the texts, at least 1.
        max_length: tokens per text or pair; no more than the encoder has positions for.
        seed: of a new head, of the order, of what is masked and of dropout.
    """

    epochs: int
    max_length: int
    seed: int


def adapt_masked_lm(
    model: str,
    texts: Sequence[tuple[str, ...]],
    settings: Adaptation,
    *,
    folder: Path,
    advance: Callable[[int], None] = lambda _done: None,
) -> None:
    """Train an encoder and its masked-LM head, a new one where the checkpoint has none, on some texts.

    All parameters train, in float32. The output layer stays tied to the embeddings where the architecture ties it. The
    global random state is left as it was.

    Args:
        model: checkpoint id, see `resolve_model`.
        texts: texts, or pairs, at least one; training rows only, since refilled texts repeat what is learned here.
        settings: epochs, length and seed.
        folder: gets the checkpoint, its tokenizer and, last, `masked_lm.json`: {texts, epochs, first_loss, last_loss,
            seconds}, losses in nats per guessed token over the first and the last tenth of the steps.
        advance: told the number of finished steps, of `num_steps`.

    Raises:
        UserError: the checkpoint cannot be had, it knows no masked language model, or no text has a word to guess.
    """
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network, tokenizer = load_masked_lm(model, must_be_trained=False)
        tokens = tokenise(tokenizer, texts, longest(network, settings.max_length))
        losses = _train(network, tokenizer, tokens, settings, advance)
    if not losses:
        raise UserError(
            f"none of the {len(texts)} training texts has a token that '{model}' knows, so its masked language model "
            "cannot be adapted. Name a checkpoint of the texts' language."
        )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tenth = max(1, len(losses) // 10)
    facts = {
        "texts": len(texts),
        "epochs": settings.epochs,
        "first_loss": float(np.mean(losses[:tenth])),
        "last_loss": float(np.mean(losses[-tenth:])),
        "seconds": time.perf_counter() - started,
    }
    (folder / MASKED_LM_FILE).write_text(json.dumps(facts, indent=2))


def epochs_for(steps: int, num_texts: int) -> int:
    """Whole passes over some texts that make at least so many steps; at least one."""
    return max(1, -(-steps // num_steps(num_texts, 1))) if num_texts else 1


def num_steps(num_texts: int, epochs: int) -> int:
    """Steps of an adaptation."""
    return epochs * -(-num_texts // BATCH_SIZE)


def load_masked_lm(model: str, *, must_be_trained: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A masked language model in eval mode and float32, and its tokenizer; the global random state stays as it was.

    Args:
        model: checkpoint id, see `resolve_model`.
        must_be_trained: refuse a checkpoint whose head would be new, and random.

    Raises:
        UserError: the checkpoint cannot be had, its architecture has no masked LM, its tokenizer has no mask token or
            more tokens than the model, or its head is missing and had to be trained.
    """
    tokenizer = load_tokenizer(model)
    network, missing = _load_network(model)
    if "mask_token" not in tokenizer.special_tokens_map:
        raise UserError(
            f"the tokenizer of '{model}' has no mask token, which refilling words needs. Name the checkpoint of a "
            "masked language model, e.g. mlm: distilbert-base-uncased."
        )
    num_known = network.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > num_known:
        raise UserError(
            f"the tokenizer of '{model}' has {len(tokenizer)} tokens, but the model knows {num_known}. "
            "Save the checkpoint again with the tokenizer that it was trained with."
        )
    if must_be_trained and missing:
        raise UserError(
            f"'{model}' has no trained masked-LM head: it has no weights for {missing[0]}. Set mlm: adapt, which "
            "trains a head on the training texts, or name the checkpoint of a masked language model."
        )
    return network.eval(), tokenizer


def longest(model: PreTrainedModel, max_length: int) -> int:
    """`max_length`, or the number of positions that the model has if that is less."""
    return min(max_length, max_tokens(model) or max_length)


def _load_network(model: str) -> tuple[PreTrainedModel, list[str]]:
    """The network, and the names of the weights that its checkpoint lacks, in order."""
    config = load_config(model)
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise UserError(
            f"'{model}' is a {config.model_type} model, of which there is no masked language model. Name a checkpoint "
            "of another architecture, e.g. bert, distilbert, roberta, electra, mpnet or deberta-v2."
        )
    place = resolve_model(model)
    try:
        with expecting_fresh_heads(), torch.random.fork_rng(devices=[]):
            network, report = AutoModelForMaskedLM.from_pretrained(place, dtype=torch.float32, output_loading_info=True)
    except LOADING_ERRORS as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the checkpoint '{model}' could not be loaded as a masked language model: {first_line.rstrip('.')}. "
            "Give a folder in the transformers format with safetensors weights, or a hub id that can be reached."
        ) from error
    return network, sorted(report["missing_keys"])


def _train(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
    settings: Adaptation,
    advance: Callable[[int], None],
) -> list[float]:
    """Losses of the steps that had a token to guess; the network is trained in place."""
    total = num_steps(len(tokens), settings.epochs)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    corruption = Corruption(tokenizer, settings.seed)
    losses: list[float] = []
    network.train()
    for step, rows in enumerate(_batches(tokens, settings)):
        batch = padded_batch(network, [tokens[row] for row in rows], int(tokenizer.pad_token_id))
        shown, is_guessed = corruption.apply(batch["input_ids"])
        if bool(is_guessed.any()):
            logits = masked_logits(network, {**batch, "input_ids": shown}, is_guessed)
            loss = functional.cross_entropy(logits, batch["input_ids"][is_guessed])
            losses.append(_update(network, optimizer, loss, LEARNING_RATE * rate_at(step, total)))
        advance(step + 1)
    return losses


def _batches(tokens: Tokens, settings: Adaptation) -> Iterator[list[int]]:
    sampler = LengthGroupedBatchSampler(tokens.lengths, BATCH_SIZE, seed=settings.seed)
    for epoch in range(settings.epochs):
        sampler.set_epoch(epoch)
        yield from sampler


def _update(network: PreTrainedModel, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> float:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_NORM)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return float(loss.detach())


def rate_at(step: int, total: int) -> float:
    """Share of the peak learning rate in a step counted from 0: up over the first tenth, then down to 0 at `total`."""
    warmup = max(1, round(_WARMUP * total))
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / max(1, total - warmup)
