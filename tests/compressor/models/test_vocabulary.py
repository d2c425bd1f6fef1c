"""Leaving out unused word rows must not change what is learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from compressor.models.initialise import pretrained_model
from compressor.models.task_model import TaskModel
from compressor.models.vocabulary import train_used_rows
from serving.manifest import TaskSpec

TASK = TaskSpec(name="topic", type="classification", labels=("a", "b", "c"))


def trained(model: TaskModel, inputs: dict[str, torch.Tensor]) -> TaskModel:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(5):
        optimizer.zero_grad()
        model(**inputs)["topic"].square().sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def test_training_the_used_rows_gives_the_weights_of_training_them_all(
    checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Catches a shortcut that changes the result: other rows moved, used rows lost, or put back in wrong places."""
    folder = str(checkpoint())
    inputs = dict(tokenizer(["card money help", "now late"], padding=True, return_tensors="pt"))
    whole = trained(pretrained_model(folder, [TASK], seed=0).eval(), inputs)
    model = pretrained_model(folder, [TASK], seed=0).eval()
    start = model.encoder.get_input_embeddings().weight.detach().clone()
    restore = train_used_rows(model, [inputs["input_ids"].numpy()], always=[0])
    assert model.encoder.get_input_embeddings().weight.shape[0] < len(start)
    trained(model, inputs)
    restore()
    for (name, expected), found in zip(whole.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, msg=name)
    moved = (model.encoder.get_input_embeddings().weight != start).any(dim=1)
    assert set(moved.nonzero().flatten().tolist()) <= set(inputs["input_ids"].flatten().tolist())


def test_an_id_that_was_left_out_is_an_error(checkpoint: Callable[..., Path]) -> None:
    """Catches a text that was not counted and would read another word's row."""
    model = pretrained_model(str(checkpoint()), [TASK], seed=0).eval()
    train_used_rows(model, [np.array([2, 5, 3])], always=[0])
    mask = torch.ones(1, 3, dtype=torch.long)
    model(input_ids=torch.tensor([[2, 5, 3]]), attention_mask=mask)
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[2, 6, 3]]), attention_mask=mask)
