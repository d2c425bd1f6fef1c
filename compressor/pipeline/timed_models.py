"""Torch models as they are timed: loaded from their checkpoints, with their own tokens and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from compressor.data.splits import TEST, TaskData
from compressor.models.attention import attention, attentions_of
from compressor.models.checkpoint import load_with_tokenizer
from compressor.models.inputs import describe_inputs
from compressor.models.task_model import TaskModel
from export.benchmark import answer_all
from export.benchmark.variants import Answer
from export.runners import Runner, limit_threads, torch_runner
from serving.manifest import InputSpec, TaskSpec
from serving.tokenise import TOKENIZER_FILE, TextEncoder


@dataclass(frozen=True)
class TimedModel:
    """A checkpoint that is ready to be timed.

    Attributes:
        model: in eval mode, on its device.
        encoder: of its own tokens.
    """

    model: TaskModel
    encoder: TextEncoder

    @property
    def run(self) -> Runner:
        """Computes a padded batch."""
        return torch_runner(self.model)

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """That it answers."""
        return self.model.tasks

    @property
    def answer(self) -> Answer:
        """Turns its logits into answers."""
        return answer_all(self.tasks)


def load_timed(folder: Path, inputs_of_bundle: InputSpec, device: str = "cpu") -> TimedModel:
    """Read a checkpoint; its texts are cut as the bundle's are."""
    model, tokenizer = load_with_tokenizer(folder)
    inputs = describe_inputs(
        model, tokenizer, max_length=inputs_of_bundle.max_length, text_columns=inputs_of_bundle.text_columns
    )
    return TimedModel(model.to(device), TextEncoder.load(folder / TOKENIZER_FILE, inputs))


def choices_of_attention(models: Sequence[TimedModel]) -> tuple[str, ...]:
    """The implementations of attention that all of the models have."""
    return attentions_of([timed.model.encoder for timed in models])


def computing_with(models: Sequence[TimedModel], name: str, threads: int) -> Callable[[], AbstractContextManager[None]]:
    """A turn in which models compute with an implementation of attention and a number of torch threads."""
    return partial(_computing_with, models, name, threads)


@contextmanager
def _computing_with(models: Sequence[TimedModel], name: str, threads: int) -> Iterator[None]:
    with attention([timed.model.encoder for timed in models], name), limit_threads(threads):
        yield


def pick_texts(data: Mapping[str, TaskData], number: int) -> list[tuple[str, ...]]:
    """Test texts of all tasks, evenly spread."""
    texts = [text for task in data.values() for text in task.splits[TEST].texts]
    picks = np.linspace(0, len(texts) - 1, num=min(number, len(texts))).round().astype(int)
    return [texts[pick] for pick in picks]
