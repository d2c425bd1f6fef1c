"""Undo a training step entirely: the student, its optimizer and every random state are put back byte for byte."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Stateful(Protocol):
    """An optimizer, a schedule, a gradient scaler, or a loader that knows its position."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on needs."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Go on from there."""


class Rollback:
    """What happens inside the `with` block never happened, also where it ends in an exception.

    Put back are the parameters, buffers, gradients (None stays None) and modes of every submodule, the states of the
    optimizer, of the schedule, of the scaler and of the loaders, and the random states: torch's of the CPU and of all
    CUDA devices, numpy's, Python's and those of the generators that are named. Tensors keep their storage.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Stateful | None = None,
        scheduler: Stateful | None = None,
        scaler: Stateful | None = None,
        loaders: Sequence[Stateful] = (),
        generators: Sequence[torch.Generator | np.random.Generator] = (),
    ) -> None:
        self._model = model
        self._parts = [part for part in (optimizer, scheduler, scaler, *loaders) if part is not None]
        self._generators = generators

    def __enter__(self) -> Rollback:
        tensors = [*self._model.parameters(), *self._model.buffers()]
        self._values = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._gradients = [(parameter, _copied(parameter.grad)) for parameter in self._model.parameters()]
        self._members = [_Members(module) for module in self._model.modules()]
        self._states = [copy.deepcopy(part.state_dict()) for part in self._parts]
        self._random = _RandomStates(self._generators)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for members in self._members:
            members.restore()
        with torch.no_grad():
            for tensor, value in self._values:
                tensor.copy_(value)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        for part, state in zip(self._parts, self._states, strict=True):
            part.load_state_dict(state)
        self._random.restore()


def _copied(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


class _Members:
    """Which tensors a module holds under which names, and its mode."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._training = module.training
        self._parameters = dict(module._parameters)
        self._buffers = dict(module._buffers)

    def restore(self) -> None:
        """Put them back."""
        self._module.training = self._training
        for held, saved in ((self._module._parameters, self._parameters), (self._module._buffers, self._buffers)):
            held.clear()
            held.update(saved)  # type: ignore[arg-type]


class _RandomStates:
    """Every random state that a training step can move."""

    def __init__(self, generators: Iterable[torch.Generator | np.random.Generator]) -> None:
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._numpy = np.random.get_state()
        self._python = random.getstate()
        self._own = [(generator, _state(generator)) for generator in generators]

    def restore(self) -> None:
        """Put them back."""
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        np.random.set_state(self._numpy)
        random.setstate(self._python)
        for generator, state in self._own:
            if isinstance(generator, torch.Generator):
                generator.set_state(state)
            else:
                generator.bit_generator.state = state


def _state(generator: torch.Generator | np.random.Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return copy.deepcopy(generator.bit_generator.state)
