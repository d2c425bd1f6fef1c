"""Averages of a model's weights in copies of our own.

A model's weights are the list of its parameters and buffers, each once: tied weights are one tensor here and
stay tied. Floating tensors are averaged in float32 (float64 for float64 tensors) whatever the model's own type:
a bf16 average forgets small steps. Integer tensors are copied.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_OWN_PRECISION = (torch.float32, torch.float64)


def model_tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once, in an order that copies of the model share; changing them changes it."""
    return [*model.parameters(), *model.buffers()]


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters lie."""
    return next(model.parameters()).device


def averaging_copy(tensor: Tensor, device: torch.device | str | None = None) -> Tensor:
    """A detached copy in the precision in which averages are held."""
    is_narrow = tensor.is_floating_point() and tensor.dtype not in _OWN_PRECISION
    dtype = torch.float32 if is_narrow else tensor.dtype
    return tensor.detach().to(device=device or tensor.device, dtype=dtype, copy=True)


@torch.no_grad()
def copy_into(held: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """Overwrite tensors of ours, wherever they lie, by weights of the same shapes."""
    torch._foreach_copy_(list(held), list(weights))


@torch.no_grad()
def move_towards(average: Sequence[Tensor], weights: Sequence[Tensor], share: float) -> None:
    """Average += share * (weights - average), in place; integer tensors become those of the weights.

    Args:
        average: tensors of ours.
        weights: of the same shapes; narrower types are widened.
        share: in [0, 1]; 1 copies exactly, 1 / (n + 1) makes the mean of n tensors that of n + 1.
    """
    if share == 1.0:
        copy_into(average, weights)
        return
    pairs = list(zip(average, weights, strict=True))
    floating = [(held, new.to(held.device, held.dtype)) for held, new in pairs if held.is_floating_point()]
    if floating:
        torch._foreach_lerp_([held for held, _ in floating], [new for _, new in floating], share)
    whole = [(held, new) for held, new in pairs if not held.is_floating_point()]
    if whole:
        copy_into([held for held, _ in whole], [new for _, new in whole])


def mean_share(count: int) -> float:
    """What the count-th of equally counting weights adds to their mean: 1 / count."""
    return 1.0 / count


def decayed_share(count: int, decay: float) -> float:
    """What the count-th weights add to a mean in which those s additions old count decay^s.

    The counts are normalised by their sum, so nothing is left of a start value: with decay near 1 this is
    `mean_share`, with decay near 0 the average is the latest.
    """
    return (1.0 - decay) / (1.0 - decay**count)


class WeightMean:
    """A mean of weights that grows one by one, held once.

    Attributes:
        tensors: the mean, empty before the first addition.
        count: how many weights are in it.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Args: device: of the model, where a restored mean is put."""
        self.device = device
        self.tensors: list[Tensor] = []
        self.count = 0

    def add(self, model: nn.Module, decay: float | None = None) -> None:
        """Take the model's present weights in; with a decay, older ones count less."""
        self.count += 1
        weights = model_tensors(model)
        if not self.tensors:
            self.tensors = [averaging_copy(tensor) for tensor in weights]
            return
        share = mean_share(self.count) if decay is None else decayed_share(self.count, decay)
        move_towards(self.tensors, weights, share)

    def state(self) -> dict[str, Any]:
        """Count and mean."""
        return {"count": self.count, "mean": self.tensors}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.count = int(state["count"])
        self.tensors = [tensor.to(self.device) for tensor in state["mean"]]


@contextlib.contextmanager
def holding(model: nn.Module | Sequence[Tensor], weights: Sequence[Tensor]) -> Iterator[None]:
    """Let a model hold other weights for a while, by pointer where type and device agree.

    Args:
        model: a model, or its `model_tensors`.
        weights: in the order of `model_tensors`.
    """
    own = model_tensors(model) if isinstance(model, nn.Module) else list(model)
    before = [tensor.data for tensor in own]
    try:
        hold(own, weights)
        yield
    finally:
        hold(own, before)


def hold(own: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """Point a model's tensors at other weights, converted where type or device differ."""
    for tensor, new in zip(own, weights, strict=True):
        tensor.data = new.data.to(tensor.device, tensor.dtype)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A second model in eval mode that takes no gradient and whose floating tensors are wide enough for averages."""
    second = copy.deepcopy(model).eval().requires_grad_(False)
    for tensor in model_tensors(second):
        if tensor.is_floating_point() and tensor.dtype not in _OWN_PRECISION:
            tensor.data = tensor.data.float()
    return second
