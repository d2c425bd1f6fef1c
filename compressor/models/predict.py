"""What a torch model says of many texts, in the order of the texts: logits, or what its last layer is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from compressor.data.batches import Tokens, padded_inputs
from compressor.data.order import batches_by_length
from compressor.models.task_model import TaskModel


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
    order: list[np.ndarray] = []
    parts: list[np.ndarray] = []
    done = 0
    model.eval()
    try:
        with torch.inference_mode():
            for rows in batches_by_length(tokens.lengths):
                batch = padded_inputs([tokens[row] for row in rows.tolist()], pad_id)
                moved = {name: tensor.to(device) for name, tensor in batch.items()}
                parts.append(compute(moved).float().cpu().numpy())
                order.append(rows)
                done += len(rows)
                advance(done)
    finally:
        model.train(was_training)
    found = np.concatenate(parts)
    ordered = np.empty_like(found)
    ordered[np.concatenate(order)] = found
    return ordered
