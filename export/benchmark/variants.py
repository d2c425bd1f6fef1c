"""What is timed: one way of running a model, and the texts it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from export.runners import Inputs, Logits, Runner, limit_threads
from serving.answers import answer_rows
from serving.errors import UserError
from serving.manifest import TaskSpec
from serving.tokenise import TextEncoder

Text = tuple[str, ...]
Answer = Callable[[Logits], object]
Grouping = Callable[[TextEncoder, Sequence[Text], int], list[list[Text]]]


@dataclass(frozen=True)
class Variant:
    """One way of running a model.

    Attributes:
        name: which model, for example teacher or student.
        runtime: torch or onnxruntime.
        precision: fp32, bf16, int8, ...
        device: cpu or cuda.
        threads: that one call computes with.
        run: computes a padded batch; must have finished the work when it returns.
        turn: entered around each turn of this variant, for example `torch_threads`.
        encoder: tokenises for this variant where it reads other ids than the rest; None for the common one.
        answer: turns logits into answers; None where the variant is timed without.
        attention: torch's implementation of attention; empty where there is no choice.
        nodes: of the graph, by the execution provider that computes them; None where that is not known.
        group: decides which texts share a call; None for `group_texts`.
    """

    name: str
    runtime: str
    precision: str
    device: str
    threads: int
    run: Runner
    turn: Callable[[], AbstractContextManager[None]] = nullcontext
    encoder: TextEncoder | None = None
    answer: Answer | None = None
    attention: str = ""
    nodes: Mapping[str, int] | None = None
    group: Grouping | None = None


def group_texts(encoder: TextEncoder, texts: Sequence[Text], batch_size: int) -> list[list[Text]]:
    """All texts in groups of like length, the shortest first.

    Raises:
        UserError: no texts, or a batch size below 1.
    """
    if not texts or batch_size < 1:
        raise UserError(
            f"cannot measure {len(texts)} texts in batches of {batch_size}. "
            "Give at least one text, and a batch size of at least 1."
        )
    lengths = [len(encoding) for encoding in encoder.encode(texts)]
    order = sorted(range(len(texts)), key=lengths.__getitem__)
    return [[texts[row] for row in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]


def keep_order(encoder: TextEncoder, texts: Sequence[Text], batch_size: int) -> list[list[Text]]:
    """All texts in groups as they come: what programs do that do not look at lengths."""
    return [list(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]


def make_batches(encoder: TextEncoder, texts: Sequence[Text], batch_size: int) -> list[Inputs]:
    """All texts in batches of like length, each padded to its own longest text only."""
    return [tokenise_group(encoder, group) for group in group_texts(encoder, texts, batch_size)]


def tokenise_group(encoder: TextEncoder, texts: Sequence[Text]) -> Inputs:
    """One batch, tokenised on the calling thread alone, as the server does."""
    return encoder.batch([encoder.encode_checked(text) for text in texts])


def answer_all(tasks: Sequence[TaskSpec]) -> Answer:
    """Answers of every task from logits under the tasks' names, through the code that serves."""

    def answer(logits: Logits) -> list[list[dict[str, Any]]]:
        return [answer_rows(logits[task.name], task, None) for task in tasks]

    return answer


def torch_threads(threads: int) -> Callable[[], AbstractContextManager[None]]:
    """A variant's `turn` that lets torch compute with so many threads, and puts the old number back."""
    return partial(limit_threads, threads)


def synchronised(run: Runner) -> Runner:
    """A runner that waits for the GPU before and after, so that only its own work is timed.

    Torch and ONNX Runtime alike are given arrays in memory of the CPU and return such: both pay for both ways.
    """

    def run_and_wait(inputs: Inputs) -> dict[str, NDArray[Any]]:
        torch.cuda.synchronize()
        logits = run(inputs)
        torch.cuda.synchronize()
        return logits

    return run_and_wait
