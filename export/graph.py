"""From a torch model to one ONNX file, with a free batch size and length.

The graph is traced with eager attention: on CPUs it runs up to a tenth faster than one traced with scaled
dot-product attention or exported through torch.export, and ONNX Runtime can recognise its attention.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, bidirectional_mask_function, eager_mask

from export.runners import eval_mode
from serving.errors import UserError
from serving.manifest import TaskSpec

DEFAULT_OPSET = 17
"""The first with LayerNormalization; later ones gave no faster graph and need a newer runtime."""

SINGLE_OUTPUT = "logits"
MAX_GRAPH_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; the last megabyte is left to the nodes."""

EXAMPLE_TOKENS = 9
EXAMPLE_TOKEN_ID = 2


def export_graph(
    model: nn.Module,
    input_names: Sequence[str],
    tasks: Sequence[TaskSpec],
    path: Path,
    *,
    opset: int | None = None,
) -> str | None:
    """Trace a model and write the graph.

    Inputs are int64 [batch, tokens], outputs are float32 [batch, outputs]; both axes are free. The model's
    mode and attention implementation are left as they were.

    Args:
        model: forward(**inputs) returns a dict from task name to logits.
        input_names: the inputs it is called with, in the order of the graph's inputs.
        tasks: outputs in this order, named `logits` where there is one task, `task.output` where several.
        path: the file to write.
        opset: of the default domain; None for `DEFAULT_OPSET`.

    Returns:
        Why the graph's masks have a row per query; None where one row is enough, as it usually is.

    Raises:
        UserError: the weights do not fit into one file, or torch cannot trace the model.
    """
    _check_fits(model)
    wrapper = _LogitsTuple(model, input_names, tasks)
    with eval_mode(wrapper), _eager_attention(model), _expected_warnings(), torch.no_grad():
        try:
            with _one_mask_row():
                _trace(wrapper, input_names, output_names(tasks), path, opset or DEFAULT_OPSET)
        except Exception as error:  # noqa: BLE001 - an encoder that wants a row per query; else it fails again below
            _trace(wrapper, input_names, output_names(tasks), path, opset or DEFAULT_OPSET)
            return f"a mask row per query ({type(error).__name__}: {first_line(error)})"
    return None


def _trace(wrapper: nn.Module, inputs: Sequence[str], outputs: Sequence[str], path: Path, opset: int) -> None:
    axes = {name: {0: "batch", 1: "tokens"} for name in inputs} | {name: {0: "batch"} for name in outputs}
    try:
        torch.onnx.export(
            wrapper,
            _example(inputs, next(wrapper.parameters()).device),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(
            f"torch cannot turn this model into an ONNX graph: {first_line(error)}. "
            "Try another opset, or take an encoder that torch.onnx knows."
        ) from error


def output_names(tasks: Sequence[TaskSpec]) -> list[str]:
    """Names of the graph's outputs; a single one is called `logits`, as other tools expect."""
    return [SINGLE_OUTPUT] if len(tasks) == 1 else [task.output for task in tasks]


class _LogitsTuple(nn.Module):
    """Positional tensors in, a tuple of logits out: the form that tracing understands."""

    def __init__(self, model: nn.Module, input_names: Sequence[str], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.model = model
        self.input_names = tuple(input_names)
        self.task_names = tuple(task.name for task in tasks)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        logits = self.model(**dict(zip(self.input_names, inputs, strict=True)))
        return tuple(logits[name].float() for name in self.task_names)


def _example(input_names: Sequence[str], device: torch.device) -> tuple[Tensor, ...]:
    """Two rows, the second one padded: a mask without zeros would let a model skip masking in the trace."""
    ids = torch.full((2, EXAMPLE_TOKENS), EXAMPLE_TOKEN_ID, device=device)
    mask = torch.ones_like(ids)
    mask[1, EXAMPLE_TOKENS // 2 :] = 0
    examples = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(examples[name] for name in input_names)


def _check_fits(model: nn.Module) -> None:
    weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if weight_bytes > MAX_GRAPH_BYTES:
        raise UserError(
            f"the model has {weight_bytes / 2**30:.2f} GiB of weights, but one ONNX file holds less than "
            "2 GiB. Take a smaller student: fewer layers, or a narrower checkpoint."
        )


@contextlib.contextmanager
def _eager_attention(model: nn.Module) -> Iterator[None]:
    """Let every transformers model inside compute attention by plain matrix products."""
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    before: list[tuple[Any, str | None]] = [(c, c._attn_implementation) for c in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


@contextlib.contextmanager
def _one_mask_row() -> Iterator[None]:
    """Let masks of padding have one row for all queries: transformers' own has one for each, made by some 25 nodes.

    transformers has one table of masks for the whole process: only one thread may export at a time.
    """
    ALL_MASK_ATTENTION_FUNCTIONS["eager"] = _padding_mask
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS["eager"]


def _padding_mask(
    *, mask_function: Any, attention_mask: Tensor | None, dtype: torch.dtype, **others: Any
) -> Tensor | None:
    """What attention adds to its scores: 0 for tokens, the least number for padding; [batch, 1, 1, tokens]."""
    if mask_function is not bidirectional_mask_function or attention_mask is None or attention_mask.ndim != 2:
        made: Tensor | None = eager_mask(
            mask_function=mask_function, attention_mask=attention_mask, dtype=dtype, **others
        )
        return made
    padding = 1.0 - attention_mask[:, None, None, :].to(dtype)  # in the words that `export.optimise` can read
    return padding.masked_fill(padding.to(torch.bool), torch.finfo(dtype).min)


@contextlib.contextmanager
def _expected_warnings() -> Iterator[None]:
    """Silence what tracing always says of these encoders; parity on real texts is the judge."""
    with warnings.catch_warnings():
        for message, category in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


_EXPECTED_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # The tracing exporter is old, but gives the fastest CPU graphs; see the module's docstring.
    (r"You are using the legacy TorchScript-based ONNX export", DeprecationWarning),
    (r"The feature will be removed\. Please remove usage of this function", DeprecationWarning),
    # transformers asks for shapes and for "is the mask all ones" in Python while it builds masks.
    (r"Converting a tensor to a Python boolean might cause the trace", Warning),
    # DeBERTa makes its scale factors, which depend on the width only, with torch.tensor.
    (r"torch\.tensor results are registered as constants in the trace", Warning),
    (r"To copy construct from a tensor, it is recommended to use sourceTensor", UserWarning),
    # Only negative indices would be computed wrongly, and token positions are not negative.
    (r"Exporting aten::index operator of advanced indexing in opset", UserWarning),
)


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
