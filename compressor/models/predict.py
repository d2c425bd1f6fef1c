"""What a torch model says of many texts, in the order of the texts: logits, or what its last layer is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from compressor.data.batches import Tokens
from compressor.models.task_model import TaskModel

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
    device = next(model.parameters()).device

    def answer(batch: Mapping[str, Tensor]) -> Tensor:
        everything = {task: torch.arange(len(batch["input_ids"]), device=device)}
        logits: Tensor = model(**batch, rows=everything)[task]
        return logits

    return over_rows(model, tokens, answer, pad_id=pad_id, advance=advance)


def head_inputs(model: TaskModel, tokens: Tokens, task: str, *, pad_id: int) -> np.ndarray:
    """What the last layer of a task's head is given, in eval mode, float32 [rows, width], without gradient."""
    found: list[Tensor] = []
    layer = last_layer(model, task)
    handle = layer.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0]))

    def caught(batch: Mapping[str, Tensor]) -> Tensor:
        model(**batch, rows={task: torch.arange(len(batch["input_ids"]))})
        return found.pop()

    try:
        return over_rows(model, tokens, caught, pad_id=pad_id)
    finally:
        handle.remove()


def last_layer(model: TaskModel, task: str) -> nn.Linear:
    """The linear layer of a task's head that gives its logits."""
    outputs = next(spec.num_outputs for spec in model.tasks if spec.name == task)
    linear = [module for module in model.head(task).modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].out_features != outputs:
        raise RuntimeError(f"the head of task '{task}' does not end in a linear layer of {outputs} outputs")
    return linear[-1]


def over_rows(
    model: nn.Module,
    tokens: Tokens,
    compute: Callable[[Mapping[str, Tensor]], Tensor],
    *,
    pad_id: int,
    advance: Callable[[int], None] = lambda _done: None,
) -> np.ndarray:
    """What is computed of every row, in the order of the rows; see `predict_logits`.

    Args:
        model: put into eval mode meanwhile.
        tokens: the texts, tokenised for this model.
        compute: from a padded batch on the model's device to [batch, ...].
        pad_id: fills short rows.
        advance: told the number of finished rows.

    Returns:
        float32 [rows, ...].
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
                moved = {name: tensor.to(device) for name, tensor in batch.items()}
                parts.append(compute(moved).float().cpu().numpy())
                done += len(rows)
                advance(done)
    finally:
        model.train(was_training)
    found = np.concatenate(parts)
    ordered = np.empty_like(found)
    ordered[order] = found
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
