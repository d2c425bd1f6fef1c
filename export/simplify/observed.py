"""What the tensors of a graph are like: their shapes, and the values of the small ones, over runs of several sizes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.agreement import random_inputs
from serving.session import create_session

SIZES = ((1, 1), (3, 7), (5, 11), (2, 13))
"""(batch, tokens) of the runs. No two sizes grow together, so that no axis can be taken for another one."""
FEW_VALUES = 8
"""A tensor of so many numbers may be a shape."""


@dataclass(frozen=True)
class Observed:
    """What was seen.

    Attributes:
        constants: tensors that are the same in every run: weights, and what `Constant` nodes give.
        shapes: of all other tensors, one per run.
        values: of integer tensors with one axis and few entries, one per run.
    """

    constants: Mapping[str, NDArray[Any]]
    shapes: Mapping[str, Sequence[tuple[int, ...]]]
    values: Mapping[str, Sequence[Sequence[int]]]

    def rank(self, name: str) -> int | None:
        """How many axes a tensor has; None for one that was not seen."""
        found = self._found(name)
        return len(found[0]) if found else None

    def spreads(self, name: str, axis: int) -> bool:
        """Whether a tensor has more than one entry along an axis, in any run."""
        return any(shape[axis] > 1 for shape in self._found(name))

    def _found(self, name: str) -> Sequence[tuple[int, ...]]:
        constant = self.constants.get(name)
        return self.shapes.get(name, ()) if constant is None else (constant.shape,)


def observe(model: onnx.ModelProto) -> Observed:
    """Run a graph of text inputs in several sizes.

    Args:
        model: its inputs are int64 [batch, tokens].
    """
    constants = dict(_constants(model))
    given = [value.name for value in model.graph.input]
    names = [
        name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name not in constants
    ]
    runs = [dict(zip(names, arrays, strict=True)) for arrays in _run(model, names, given)]
    shapes = {name: [run[name].shape for run in runs] for name in names}
    shapes |= {name: list(SIZES) for name in given}
    small = [name for name in names if all(_may_be_shape(run[name]) for run in runs)]
    return Observed(constants, shapes, {name: [run[name].tolist() for run in runs] for name in small})


def _constants(model: onnx.ModelProto) -> Iterator[tuple[str, NDArray[Any]]]:
    for tensor in model.graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node.output[0], numpy_helper.to_array(node.attribute[0].t)


def _run(model: onnx.ModelProto, names: Sequence[str], given: Sequence[str]) -> Iterator[Sequence[NDArray[Any]]]:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        onnx.save_model(watched, str(path))
        session = create_session(path)
        for batch, tokens in SIZES:
            yield session.run(list(names), random_inputs(given, batch, tokens))


def _may_be_shape(array: NDArray[Any]) -> bool:
    return array.ndim == 1 and math.prod(array.shape) <= FEW_VALUES and np.issubdtype(array.dtype, np.integer)
