"""Batches of a masked language model: tokens hidden from it, and its answers at the hidden places alone.

Source: Devlin et al. (2019), arXiv:1810.04805 (BERT), section 3.1: 15% of the tokens are guessed; of these 80% are
masked, 10% are another token and 10% stay.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compressor.data.batches import padded_inputs

_GUESSED, _MASKED, _MASKED_OR_FOREIGN = 0.15, 0.8, 0.9
_TYPES = "token_type_ids"


def masked_logits(model: PreTrainedModel, inputs: Mapping[str, Tensor], is_masked: Tensor) -> Tensor:
    """Logits of a masked language model at some places alone: the vocabulary is most of a small model's cost.

    Args:
        model: in the mode it is to compute in.
        inputs: [batch, tokens] each, see `padded_batch`.
        is_masked: bool [batch, tokens].

    Returns:
        [places, vocabulary], places row by row.
    """
    decoder = model.get_output_embeddings()
    if decoder is None:
        everywhere: Tensor = model(**inputs).logits
        return everywhere[is_masked]
    hook = decoder.register_forward_pre_hook(lambda _decoder, hidden: (hidden[0][is_masked],))
    try:
        logits: Tensor = model(**inputs).logits
    finally:
        hook.remove()
    return logits


def padded_batch(model: PreTrainedModel, rows: Sequence[Mapping[str, np.ndarray]], pad_id: int) -> dict[str, Tensor]:
    """Rows as a model reads them, padded to the longest; token types only where the model knows some.

    Args:
        model: that will read them.
        rows: `input_ids` and, maybe, `token_type_ids`, each [tokens of the row]; at least one row.
        pad_id: fills short rows.

    Returns:
        `input_ids`, `attention_mask` and, maybe, `token_type_ids`, each int64 [batch, tokens].
    """
    batch = padded_inputs(rows, pad_id)
    return batch if _takes_types(model) else {name: batch[name] for name in batch if name != _TYPES}


def _takes_types(model: PreTrainedModel) -> bool:
    return _TYPES in inspect.signature(model.forward).parameters and getattr(model.config, "type_vocab_size", 0) > 1


class Corruption:
    """Hides some tokens of a batch from the model, which then has to guess them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        """Args: tokenizer: whose special tokens are never hidden; seed: of what is hidden, batch after batch."""
        special = set(tokenizer.all_special_ids)
        self._special = torch.tensor(sorted(special))
        self._others = torch.tensor([token for token in range(len(tokenizer)) if token not in special])
        self._mask_id = int(tokenizer.mask_token_id)
        self._generator = torch.Generator().manual_seed(seed)

    def apply(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What the model is shown, and where it has to guess: 15% of the tokens, at least one where there is any.

        Args:
            ids: int64 [batch, tokens], not changed.

        Returns:
            Ids int64 and places bool, both [batch, tokens].
        """
        is_free = ~torch.isin(ids, self._special)
        lots = self._uniform(ids).masked_fill(~is_free, 1.0)
        is_guessed = is_free & (lots <= lots.min().clamp(min=_GUESSED))
        way = self._uniform(ids)
        foreign = self._others[torch.randint(len(self._others), ids.shape, generator=self._generator)]
        hidden = torch.where(way < _MASKED, self._mask_id, torch.where(way < _MASKED_OR_FOREIGN, foreign, ids))
        return torch.where(is_guessed, hidden, ids), is_guessed

    def _uniform(self, ids: Tensor) -> Tensor:
        return torch.rand(ids.shape, generator=self._generator)
