"""One way to run a padded batch, whatever computes it: torch, or ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from serving.manifest import TaskSpec
from serving.tokenise import Encoding, TextEncoder

Inputs = Mapping[str, NDArray[np.int64]]
Logits = dict[str, NDArray[np.float32]]
Runner = Callable[[Inputs], Logits]
"""From the graph's inputs, each [batch, tokens], to logits per task, each [batch, outputs]."""

DEFAULT_BATCH_SIZE = 16


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off, and afterwards back to what each part of the model had."""
    before = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, was_training in before:
            part.training = was_training


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Torch's CPU threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tensors_of(inputs: Inputs, device: torch.device) -> dict[str, torch.Tensor]:
    """Copies of a graph's inputs for torch, which refuses to share arrays that must not be written to."""
    return {name: torch.tensor(array, device=device) for name, array in inputs.items()}


def torch_runner(model: nn.Module) -> Runner:
    """Run a torch model where its weights lie, in the mode it is in (see `eval_mode`)."""
    device = next(model.parameters()).device

    def run(inputs: Inputs) -> Logits:
        with torch.inference_mode():
            outputs = model(**tensors_of(inputs, device))
            return {name: logits.float().cpu().numpy() for name, logits in outputs.items()}

    return run


def session_runner(session: Any, tasks: Sequence[TaskSpec]) -> Runner:
    """Run a graph in an ONNX Runtime session."""
    wanted = [task.output for task in tasks]

    def run(inputs: Inputs) -> Logits:
        return dict(zip((task.name for task in tasks), session.run(wanted, dict(inputs)), strict=True))

    return run


def run_texts(
    run: Runner, encoder: TextEncoder, encodings: Sequence[Encoding], *, batch_size: int = DEFAULT_BATCH_SIZE
) -> Logits:
    """Logits of encoded texts in their order; texts of like length share a batch.

    Args:
        run: what computes a batch.
        encoder: pads the batches.
        encodings: at least one.
        batch_size: texts per batch, at least 1.

    Returns:
        Per task, [texts, outputs].
    """
    order = sorted(range(len(encodings)), key=lambda row: len(encodings[row]))
    parts: dict[str, list[NDArray[np.float32]]] = {}
    for start in range(0, len(order), batch_size):
        batch = encoder.batch([encodings[row] for row in order[start : start + batch_size]])
        for name, logits in run(batch).items():
            parts.setdefault(name, []).append(logits)
    places = np.argsort(order)
    return {name: np.concatenate(logits)[places] for name, logits in parts.items()}
