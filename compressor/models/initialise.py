"""Building models: pretrained encoders with fresh heads, fewer layers, existing fine-tuned checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from compressor.models.resolve import resolve_model
from compressor.models.task_model import TaskModel, empty_head, new_head
from serving.errors import UserError
from serving.manifest import TaskSpec

transformers_logging.disable_progress_bar()  # loading takes a second; our own bars tell of what lasts

# What transformers, huggingface_hub and safetensors raise for files that are missing, cut or wrong.
LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)


def load_config(model: str) -> PreTrainedConfig:
    """The configuration of a checkpoint; UserError when it cannot be had."""
    return _load(model, lambda place: AutoConfig.from_pretrained(place))


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a checkpoint.

    Raises:
        UserError: there is none, or only a slow one, which a server without transformers could not run.
    """
    tokenizer: PreTrainedTokenizerBase = _load(model, lambda place: AutoTokenizer.from_pretrained(place))
    if not tokenizer.is_fast or len(tokenizer) <= len(tokenizer.all_special_tokens):
        # without its files transformers makes up a tokenizer that knows the special tokens alone
        raise UserError(
            f"the tokenizer of '{model}' has no tokenizer.json, or an empty one; save its fast tokenizer beside it."
        )
    if tokenizer.pad_token_id is None:
        raise UserError(f"the tokenizer of '{model}' has no padding token; set pad_token in its tokenizer_config.json.")
    return tokenizer


def pretrained_model(
    model: str, tasks: Sequence[TaskSpec], *, layers: int | Sequence[int] | None = None, seed: int
) -> TaskModel:
    """A pretrained encoder, or some of its layers, with a fresh head per task.

    Args:
        model: checkpoint id, see `resolve_model`.
        tasks: one head each.
        layers: how many layers to keep, evenly spread, or which (from 0); None keeps all.
        seed: of the new heads (and of what the checkpoint lacks); the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: PreTrainedModel = _load(model, load_encoder)
        encoder = keep_layers(encoder, layers)
        return TaskModel(encoder, {task.name: new_head(encoder.config, task) for task in tasks}, tasks)


def from_teacher(teacher: TaskModel, tasks: Sequence[TaskSpec], *, layers: int | Sequence[int] | None) -> TaskModel:
    """Some layers of a fine-tuned teacher's encoder, and copies of its heads with outputs in the tasks' label order."""
    model = copy.deepcopy(teacher)
    encoder = keep_layers(model.encoder, layers)
    for own, task in zip(model.tasks, tasks, strict=True):
        if own.labels != task.labels:
            keep_outputs(model.head(own.name), [own.labels.index(label) for label in task.labels])
    student = TaskModel(encoder, {task.name: empty_head(encoder.config, task) for task in tasks}, tasks)
    student.heads.load_state_dict(model.heads.state_dict())
    return student


def finetuned_model(model: str) -> tuple[TaskModel, tuple[str, ...] | None]:
    """An existing sequence-classification checkpoint as a TaskModel with one head called `task`.

    Returns:
        The model and the label names of its outputs in order; None where its config only numbers them.

    Raises:
        UserError: it cannot be loaded or has no trained head.
    """
    full, report = _load(
        model,
        lambda place: AutoModelForSequenceClassification.from_pretrained(
            place, dtype=torch.float32, output_loading_info=True
        ),
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"'{model}' is not a fine-tuned classifier: it has no weights for {missing[0]}. "
            "Give a sequence-classification checkpoint, or set teacher.train: true."
        )
    labels = tuple(str(full.config.id2label[i]) for i in range(full.config.num_labels))
    task = _task_of(full.config, labels)
    encoder = full.base_model
    return TaskModel(encoder, {task.name: full}, [task]), None if _only_numbered(labels) else labels


def load_encoder(place: str | Path) -> PreTrainedModel:
    """The encoder as its sequence-classification model uses it (RoBERTa's, for one, has no pooler there)."""
    return AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32).base_model


def skeleton(model: str) -> PreTrainedModel:
    """The encoder of a checkpoint without its weights: enough to ask for layers and positions, at no cost.

    Raises:
        UserError: the configuration cannot be had, or local weights are cut.
    """
    _load(model, _open_weights)
    config = load_config(model)
    with torch.device("meta"):
        encoder: PreTrainedModel = _load(
            model, lambda _place: AutoModelForSequenceClassification.from_config(config).base_model
        )
    return encoder


def max_tokens(encoder: PreTrainedModel) -> int | None:
    """Tokens that an encoder has positions for; None where positions are not learned one by one."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from behind padding
            return module.num_embeddings - first
    return None


def keep_layers(encoder: PreTrainedModel, layers: int | Sequence[int] | None) -> PreTrainedModel:
    """Drop all but the chosen layers of an encoder, in place.

    Raises:
        UserError: a layer that is not there, or an architecture whose layers cannot be found.
    """
    if layers is None:
        return encoder
    owner, name = _layer_list(encoder)
    modules = getattr(owner, name)
    kept = [modules[index] for index in chosen_layers(layers, len(modules))]
    setattr(owner, name, nn.ModuleList(kept))
    encoder.config.num_hidden_layers = len(kept)
    return encoder


def chosen_layers(layers: int | Sequence[int], total: int) -> list[int]:
    """The layers to keep: the named ones, or a number of them evenly spread from the first to the last.

    For 6 of 12 this is 0, 2, 4, 7, 9, 11: DistilBERT's choice (Sanh et al. 2019, arXiv:1910.01108).
    """
    if isinstance(layers, int):
        if layers > total:
            raise UserError(
                f"student.layers is {layers}, but the checkpoint has {total} layers. Ask for at most {total}."
            )
        return [int(position) for position in np.round(np.linspace(0, total - 1, layers))]
    wrong = [index for index in layers if not 0 <= index < total]
    if wrong or not layers or len(set(layers)) != len(layers):
        raise UserError(
            f"student.layers is {list(layers)}, expected different layers from 0 to {total - 1}, at least one."
        )
    return list(layers)


def _layer_list(encoder: PreTrainedModel) -> tuple[nn.Module, str]:
    wanted = encoder.config.num_hidden_layers
    for parent in encoder.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == wanted and name.startswith(("layer", "block", "h")):
                return parent, name
    raise UserError(
        f"the layers of a {encoder.config.model_type} encoder could not be found. "
        "Leave student.layers out and name a smaller checkpoint as student.model."
    )


def keep_outputs(head: nn.Module, outputs: Sequence[int]) -> None:
    """Drop all but some outputs of a head, in place, and put them into this order."""
    last = last_linear(head)
    last.weight = nn.Parameter(last.weight[list(outputs)].detach().clone())
    if last.bias is not None:
        last.bias = nn.Parameter(last.bias[list(outputs)].detach().clone())


def last_linear(head: nn.Module) -> nn.Linear:
    """The layer whose outputs are the logits."""
    return [module for module in head.modules() if isinstance(module, nn.Linear)][-1]


def _task_of(config: PreTrainedConfig, labels: tuple[str, ...]) -> TaskSpec:
    kinds: dict[str | None, Any] = {"multi_label_classification": "multilabel", "regression": "regression"}
    kind = kinds.get(config.problem_type, "regression" if len(labels) == 1 else "classification")
    return TaskSpec(name="task", type=kind, labels=() if kind == "regression" else labels)


def _only_numbered(labels: Sequence[str]) -> bool:
    return all(label == f"LABEL_{index}" for index, label in enumerate(labels))


def _open_weights(place: str) -> None:
    """Read the headers of local weights: a cut file is found without loading it."""
    for path in Path(place).glob("*.safetensors"):
        with safe_open(path, framework="pt"):
            pass


def _load(model: str, loader: Any) -> Any:
    place = resolve_model(model)
    try:
        with expecting_fresh_heads():
            return loader(place)
    except LOADING_ERRORS as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the checkpoint '{model}' could not be loaded: {first_line.rstrip('.')}. "
            "Give a folder in the transformers format with safetensors weights, an installed model, or a hub id "
            "that can be reached."
        ) from error


@contextmanager
def expecting_fresh_heads() -> Iterator[None]:
    """Silence what transformers reports of weights that a checkpoint lacks: heads are made or read elsewhere."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
