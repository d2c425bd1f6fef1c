"""From a model and its tokenizer to the description of inputs that a bundle carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

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
