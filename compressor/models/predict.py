"""Logits of a torch model over many texts, in the order of the texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from compressor.data.batches import Tokens

_TOKENS_PER_BATCH = 4096


def predict_logits(
    model: nn.Module,
    tokens: Tokens,
    task: str,
    *,
    pad_id: int,
    advance: Callable[[int], None] = lambda _done: None,
) -> np.ndarray:
    """Logits of one task, in eval mode, float32, without gradient.

    Rows of like length run together, so there is next to no padding. The model's mode and the random
    generators are left as they were.

    Args:
        model: a TaskModel.
        tokens: the texts, tokenised for this model.
        task: name of the head to ask.
        pad_id: fills short rows.
        advance: told the number of finished rows.

    Returns:
        float32 [rows, outputs].
    """
    was_training = model.training
    device = next(model.parameters()).device
    order = np.argsort(tokens.lengths, kind="stable")
    parts: list[np.ndarray] = []
    done = 0
    model.eval()
    try:
        with torch.inference_mode():
            for rows in _batches(order, tokens.lengths):
                batch = _padded_batch(tokens, rows, pad_id)
                everything = {task: torch.arange(len(rows), device=device)}
                moved = {name: tensor.to(device) for name, tensor in batch.items()}
                parts.append(model(**moved, rows=everything)[task].float().cpu().numpy())
                done += len(rows)
                advance(done)
    finally:
        model.train(was_training)
    logits = np.concatenate(parts)
    ordered = np.empty_like(logits)
    ordered[order] = logits
    return ordered


def _batches(order: np.ndarray, lengths: np.ndarray) -> Sequence[np.ndarray]:
    """Rows in ascending length, cut so that a batch has at most about 4,096 tokens."""
    batches, start = [], 0
    for end in range(1, len(order) + 1):
        is_last = end == len(order)
        if is_last or int(lengths[order[end]]) * (end + 1 - start) > _TOKENS_PER_BATCH:
            batches.append(order[start:end])
            start = end
    return batches


def _padded_batch(tokens: Tokens, rows: np.ndarray, pad_id: int) -> dict[str, torch.Tensor]:
    width = int(tokens.lengths[rows].max())
    columns = [tokens[int(row)] for row in rows]
    batch: dict[str, torch.Tensor] = {}
    for name in columns[0]:
        filled = np.full((len(rows), width), pad_id if name == "input_ids" else 0, dtype=np.int64)
        for line, column in zip(filled, columns, strict=True):
            line[: len(column[name])] = column[name]
        batch[name] = torch.from_numpy(filled)
    reach = torch.from_numpy(tokens.lengths[rows])
    batch["attention_mask"] = (torch.arange(width) < reach[:, None]).long()
    return batch
