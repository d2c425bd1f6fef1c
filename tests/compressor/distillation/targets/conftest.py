"""A student that takes random steps, and models small enough to compute by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from compressor.distillation.plan import build_plan
from compressor.distillation.presets import parse_method_text
from compressor.distillation.targets.self_teacher import SelfTeacher


class Moment(NamedTuple):
    """What holds while the loss of a step is computed."""

    step: int
    model: nn.Module
    history: list[list[Tensor]]
    logits: Tensor


class Student(nn.Module):
    """Features [rows, 5] to logits [rows, 3], by a linear layer or two with a bend and dropout between."""

    def __init__(self, *, bent: bool, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> None:
        super().__init__()
        middle = [nn.Linear(5, 5), nn.Tanh(), nn.Dropout(dropout)] if bent else []
        self.layers = nn.Sequential(*middle, nn.Linear(5, 3)).to(dtype)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits of the rows of every task."""
        return {name: self.layers(features[positions]) for name, positions in rows.items()}


@pytest.fixture
def student() -> type[Student]:
    """The class of the toy student."""
    return Student


@pytest.fixture
def self_teacher() -> Callable[[str], SelfTeacher]:
    """A factory: methods as text -> their self-teacher."""

    def make(text: str) -> SelfTeacher:
        teacher = build_plan(parse_method_text(text), patience=None).self_teacher
        assert teacher is not None
        return teacher

    return make


@pytest.fixture
def features() -> Tensor:
    """Eight rows of five features."""
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def walk(features: Tensor) -> Callable[..., Iterator[Moment]]:
    """A factory: (teacher, model, steps) -> a moment per step of a student that moves at random."""

    def steps(teacher: SelfTeacher, model: nn.Module, number: int, *, begin: bool = True) -> Iterator[Moment]:
        generator = torch.Generator().manual_seed(2)
        inputs: Any = {"features": features.to(next(model.parameters()).dtype)}
        rows = {"topic": torch.arange(len(features))}
        if begin:
            teacher.start(model)
        history: list[list[Tensor]] = []
        for step in range(1, number + 1):
            history.append([tensor.detach().clone() for tensor in model.parameters()])
            yield Moment(step, model, copy.copy(history), teacher.logits(model, inputs, rows)["topic"])
            teacher.before_update(model, step)
            move(model, generator)

    return steps


def move(model: nn.Module, generator: torch.Generator) -> None:
    """An optimizer step that knows nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for buffer in model.buffers():
            buffer.add_(1)
