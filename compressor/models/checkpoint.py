"""Checkpoints in the transformers format.

One task: the folder is what `AutoModelForSequenceClassification.from_pretrained` reads. Several tasks: the
folder holds the encoder (`AutoModel.from_pretrained`) and `heads.safetensors` beside it. Both hold
`tasks.json`, the tasks as the rest of this project describes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from compressor.models.initialise import LOADING_ERRORS, expecting_fresh_heads, load_encoder, load_tokenizer
from compressor.models.task_model import TaskModel, empty_head, head_config
from serving.errors import UserError
from serving.manifest import TaskSpec

TASKS_FILE = "tasks.json"
HEADS_FILE = "heads.safetensors"


def save_checkpoint(folder: Path, model: TaskModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a model and its tokenizer, readable by transformers alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(model.tasks) == 1:
        _save_single(folder, model)
    else:
        model.encoder.save_pretrained(folder)
        save_file(_contiguous(model.heads.state_dict()), folder / HEADS_FILE)
    tokenizer.save_pretrained(folder)
    (folder / TASKS_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(model.tasks), indent=2))


def load_checkpoint(folder: Path) -> TaskModel:
    """Read what `save_checkpoint` wrote, in eval mode.

    Raises:
        UserError: the folder is not such a checkpoint or its files are damaged.
    """
    tasks = read_tasks(folder)
    try:
        if len(tasks) == 1:
            full = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
            model = TaskModel(full.base_model, {tasks[0].name: full}, tasks)
        else:
            with expecting_fresh_heads(), torch.random.fork_rng(devices=[]):  # a head is drawn, and thrown away
                encoder = load_encoder(folder)
            model = TaskModel(encoder, {task.name: empty_head(encoder.config, task) for task in tasks}, tasks)
            model.heads.load_state_dict(load_file(folder / HEADS_FILE))
    except LOADING_ERRORS as error:
        raise UserError(f"the checkpoint '{folder}' is damaged ({error}). Delete the folder and run again.") from error
    return model.eval()


def load_with_tokenizer(folder: Path) -> tuple[TaskModel, PreTrainedTokenizerBase]:
    """A checkpoint and the tokenizer that lies beside it."""
    return load_checkpoint(folder), load_tokenizer(str(folder))


def read_tasks(folder: Path) -> tuple[TaskSpec, ...]:
    """The tasks that a checkpoint's heads answer, in order."""
    path = folder / TASKS_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[TaskSpec, ...])
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise UserError(
            f"'{folder}' is not a checkpoint of this program: {TASKS_FILE} is missing or damaged. "
            "For a model trained elsewhere use `compressor export MODEL --data FILE`."
        ) from error


def with_tasks(model: TaskModel, tasks: Sequence[TaskSpec]) -> TaskModel:
    """The same encoder and heads under other task descriptions (names, labels), in the same order."""
    heads = {task.name: head for task, head in zip(tasks, model.heads.values(), strict=True)}
    return TaskModel(model.encoder, heads, tasks)


def only_tasks(model: TaskModel, names: Sequence[str]) -> TaskModel:
    """The same encoder with the heads of some of its tasks, in their order there."""
    tasks = [task for task in model.tasks if task.name in names]
    return TaskModel(model.encoder, {task.name: cast(PreTrainedModel, model.head(task.name)) for task in tasks}, tasks)


def _save_single(folder: Path, model: TaskModel) -> None:
    task = model.tasks[0]
    head: Any = model.head(task.name)
    with torch.device("meta"):  # every weight is taken from the model: none is initialised
        full = type(head)(head_config(model.config, task))
    setattr(full, full.base_model_prefix, model.encoder)
    missing = full.load_state_dict(head.state_dict(), strict=False, assign=True).missing_keys
    foreign = [key for key in missing if not key.startswith(f"{full.base_model_prefix}.")]
    if foreign:
        raise RuntimeError(f"the head of task '{task.name}' lacks {foreign}")
    full.save_pretrained(folder)


def _contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in state.items()}
