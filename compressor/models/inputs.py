"""From a model and its tokenizer to the description of inputs that a bundle carries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from compressor.models.task_model import TaskModel
from serving.manifest import InputSpec

TOKEN_TYPES = "token_type_ids"


def describe_inputs(
    model: TaskModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int, text_columns: Sequence[str]
) -> InputSpec:
    """What the graph is fed: token types only where both tokenizer and encoder know them."""
    names = ["input_ids", "attention_mask"]
    if model.takes_token_types and TOKEN_TYPES in tokenizer.model_input_names:
        names.append(TOKEN_TYPES)
    return InputSpec(
        names=tuple(names),
        pad_id=int(tokenizer.pad_token_id),
        pad_token_type_id=int(tokenizer.pad_token_type_id),
        max_length=max_length,
        truncation_side=cast(Literal["right", "left"], tokenizer.truncation_side),
        text_columns=tuple(text_columns),
    )


def own_tokens(
    model: TaskModel, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Callable[[Sequence[tuple[str, ...]]], dict[str, np.ndarray]]:
    """What the model's own tokenizer makes of texts: a padded batch, int64 [batch, tokens] each."""
    names = describe_inputs(model, tokenizer, max_length=max_length, text_columns=()).names

    def tokenise(texts: Sequence[tuple[str, ...]]) -> dict[str, np.ndarray]:
        columns = [list(column) for column in zip(*texts, strict=True)]
        cut: dict[str, Any] = {"truncation": True, "max_length": max_length, "padding": True, "padding_side": "right"}
        encoded = tokenizer(*columns, **cut, return_token_type_ids=TOKEN_TYPES in names, return_tensors="np")
        return {name: np.asarray(encoded[name], dtype=np.int64) for name in names}

    return tokenise
