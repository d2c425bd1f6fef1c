"""Several heads on one encoder, for any architecture that AutoModelForSequenceClassification loads.

The head of an architecture is what its `...ForSequenceClassification` does after its encoder. Each task
keeps such a model whose encoder is replaced by a stand-in that returns the output of the one shared
encoder, so the heads are transformers' own code and the encoder runs once per batch whatever the
number of tasks.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from export.config import labelled_config
from serving.manifest import TaskSpec


class EncoderOutput(nn.Module):
    """Stands where a head expects its encoder and returns what the shared encoder has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.current: ModelOutput | None = None

    def forward(self, *_args: Any, **_kwargs: Any) -> ModelOutput:
        """The output that was set for this pass; the arguments are those the shared encoder got."""
        if self.current is None:
            raise RuntimeError("the shared encoder has not run; call the TaskModel, not one of its heads")
        return self.current


class TaskModel(nn.Module):
    """One encoder, one head per task.

    Attributes:
        config: of the encoder; its label fields are those of a single task, where there is one.
        tasks: the tasks in the order of their heads.
        takes_token_types: whether the encoder tells the first text of a pair from the second by token types.
    """

    def __init__(
        self, encoder: PreTrainedModel, heads: Mapping[str, PreTrainedModel], tasks: Sequence[TaskSpec]
    ) -> None:
        """Join an encoder with heads made by `new_head` or `empty_head`.

        Args:
            encoder: the shared base model.
            heads: per task name, a sequence-classification model whose own encoder is replaced here.
            tasks: their descriptions, in order.
        """
        super().__init__()
        self.config: PreTrainedConfig = encoder.config
        self.tasks = tuple(tasks)
        self.encoder = encoder
        for head in heads.values():
            setattr(head, head.base_model_prefix, EncoderOutput())
        self.heads = nn.ModuleDict({_head_key(task.name): heads[task.name] for task in self.tasks})
        accepted = inspect.signature(encoder.forward).parameters
        self.takes_token_types = "token_type_ids" in accepted and getattr(self.config, "type_vocab_size", 0) > 1

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        rows: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Logits per task.

        Args:
            input_ids: [batch, tokens].
            attention_mask: [batch, tokens], 1 for real tokens.
            token_type_ids: [batch, tokens]; ignored by encoders that know no token types.
            rows: per task the positions in the batch that belong to it; default: every row to every task.

        Returns:
            Per task [rows of the task, outputs]; tasks without rows are left out.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None and self.takes_token_types:
            inputs["token_type_ids"] = token_type_ids
        output = self.encoder(**inputs)
        if rows is None:
            return {task.name: self._answer(self.head(task.name), output, inputs) for task in self.tasks}
        return {
            name: self._answer(
                self.head(name), _take(output, rows[name]), {k: v[rows[name]] for k, v in inputs.items()}
            )
            for name in (task.name for task in self.tasks)
            if name in rows
        }

    def head(self, task: str) -> nn.Module:
        """The head of a task."""
        return self.heads[_head_key(task)]

    @staticmethod
    def _answer(head: nn.Module, output: ModelOutput, inputs: dict[str, Tensor]) -> Tensor:
        stand_in = getattr(head, str(head.base_model_prefix))
        stand_in.current = output
        try:
            logits: Tensor = head(**inputs).logits
        finally:
            stand_in.current = None
        return logits


def _head_key(task: str) -> str:
    """Name of a task's head among the modules: a task may be called `type`, which a torch module already has."""
    return f"{task}_head"


def new_head(config: PreTrainedConfig, task: TaskSpec) -> PreTrainedModel:
    """A sequence-classification model with a fresh head for one task (its encoder is thrown away)."""
    return AutoModelForSequenceClassification.from_config(head_config(config, task))


def empty_head(config: PreTrainedConfig, task: TaskSpec) -> PreTrainedModel:
    """A head for weights that are loaded into it: nothing is initialised, and no random number is drawn."""
    with torch.device("meta"):
        head = new_head(config, task)
    setattr(head, head.base_model_prefix, EncoderOutput())
    filled: PreTrainedModel = head.to_empty(device="cpu")
    return filled


def head_config(config: PreTrainedConfig, task: TaskSpec) -> PreTrainedConfig:
    """A copy of the encoder's configuration with the task's labels, as other tools read them."""
    copy: PreTrainedConfig = labelled_config(config, task)
    copy.num_labels = task.num_outputs
    copy._attn_implementation = getattr(config, "_attn_implementation", None)
    return copy


def _take(output: ModelOutput, rows: Tensor) -> ModelOutput:
    taken: ModelOutput = type(output)(**{key: value[rows] for key, value in output.items() if hasattr(value, "shape")})
    return taken


def num_parameters(model: nn.Module) -> int:
    """All parameters, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_encoder_parameters(model: TaskModel) -> int:
    """Parameters without the token, position and type embeddings."""
    embeddings = {
        id(parameter)
        for name, module in model.encoder.named_modules()
        if isinstance(module, nn.Embedding) and "embed" in name
        for parameter in module.parameters()
    }
    return sum(p.numel() for p in model.parameters() if id(p) not in embeddings)
