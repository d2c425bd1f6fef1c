"""Whether every weight that a task's logits depend on stands in a graph, bit for bit.

Logits show a changed weight only where a compared text reads it: a row of the word embeddings whose word is in no
validation text may hold anything. Fp32 graphs carry torch's tensors unchanged, transposed, or side by side with others
(fused attention packs query, key and value), so each of them can be looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from export.runners import Inputs, tensors_of

Weights = Mapping[str, NDArray[np.float32]]


def used_weights(model: nn.Module, inputs: Inputs) -> dict[str, Weights]:
    """Per task, the parameters that its logits depend on: those through which a gradient flows.

    Args:
        model: the student, on any device; nothing in it is changed.
        inputs: a padded batch that it can answer.
    """
    device = next(model.parameters()).device
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.enable_grad():
        outputs = model(**tensors_of(inputs, device))
        gradients = {
            task: torch.autograd.grad(logits.sum(), list(named.values()), retain_graph=True, allow_unused=True)
            for task, logits in outputs.items()
        }
    arrays = {name: parameter.detach().float().cpu().numpy() for name, parameter in named.items()}
    return {
        task: {name: arrays[name] for name, gradient in zip(named, found, strict=True) if gradient is not None}
        for task, found in gradients.items()
    }


def lost_weights(weights: Weights, graph: Path) -> list[str]:
    """Names of the weights that are not in a graph.

    A tensor that carries the weight's name must be the weight. Without such a tensor the weight may stand in any
    other, as it is, transposed, or as one of several side by side; there, two equal weights (biases of a fresh model,
    all zero) cannot be told apart.
    """
    tensors = _tensors(onnx.load(graph))
    return [name for name, array in weights.items() if not _is_held(name, array, tensors)]


def _tensors(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Every fp32 constant of a graph by its name."""
    constants = {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    named = constants | {tensor.name: tensor for tensor in model.graph.initializer}
    kept = {name: tensor for name, tensor in named.items() if tensor.data_type == onnx.TensorProto.FLOAT}
    return {name: numpy_helper.to_array(tensor) for name, tensor in kept.items()}


def _is_held(name: str, array: NDArray[np.float32], tensors: Weights) -> bool:
    own = [tensor for other, tensor in tensors.items() if f".{other}".endswith(f".{name}")]
    forms = (array, array.T) if array.ndim == 2 else (array,)
    return any(_has_block(tensor, form) for tensor in own or tensors.values() for form in forms)


def _has_block(tensor: NDArray[np.float32], block: NDArray[np.float32]) -> bool:
    """Whether a tensor is made of blocks side by side along its last axis, one of which is the wanted one."""
    if tensor.ndim != block.ndim or tensor.shape[:-1] != block.shape[:-1]:
        return False
    if not block.ndim:
        return _are_equal(tensor, block)
    width = block.shape[-1]
    starts = range(0, tensor.shape[-1], width) if tensor.shape[-1] % width == 0 else ()
    return any(_are_equal(tensor[..., start : start + width], block) for start in starts)


def _are_equal(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    """Bit for bit: numbers below the smallest normal one may compare equal to zero."""
    return np.array_equal(first.view(np.uint32), second.view(np.uint32))
