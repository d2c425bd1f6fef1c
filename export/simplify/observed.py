"""What the tensors of a graph are like: their shapes, and the values of the small ones, over runs of several sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.agreement import random_inputs
from export.nodes import constant_array
from export.watched import watching_session

SIZES = ((1, 1), (3, 7), (5, 11), (2, 13))
"""(batch, tokens) of the runs. No two sizes grow together, so that no axis can be taken for another one."""
FEW_VALUES = 8
"""A tensor of so many numbers may be a shape."""

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Observed:
    """What was seen.

    Attributes:
        shapes: of every tensor, one per run.
        constants: small tensors that are the same in every run, because nothing computes them.
        values: of computed integer tensors with one axis and few entries, one per run.
    """

    shapes: Mapping[str, Shapes]
    constants: Mapping[str, NDArray[Any]]
    values: Mapping[str, Sequence[Sequence[int]]]

    def rank(self, name: str) -> int | None:
        """How many axes a tensor has; None for one that was not seen."""
        shapes = self.shapes.get(name)
        return len(shapes[0]) if shapes else None

    def spreads(self, name: str, axis: int) -> bool:
        """Whether a tensor has more than one entry along an axis, in any run."""
        return any(shape[axis] > 1 for shape in self.shapes.get(name, ()))


def observe(model: onnx.ModelProto, folder: Path, max_length: int = 2**31) -> Observed:
    """Run a graph of text inputs in several sizes.

    Args:
        model: its inputs are int64 [batch, tokens].
        folder: for a copy of the graph.
        max_length: tokens of the longest text.

    Raises:
        BundleError: the graph cannot be loaded.
        Exception: of ONNX Runtime, where it cannot be run on random ids; of another kind for sequences of tensors.
    """
    sizes = [(batch, min(tokens, max_length)) for batch, tokens in SIZES]
    shapes: dict[str, Shapes] = {value.name: list(sizes) for value in model.graph.input}
    constants = {}
    for name, (shape, constant) in _constants(model).items():
        shapes[name] = [shape] * len(sizes)
        if constant is not None:
            constants[name] = constant
    names = [name for node in model.graph.node for name in node.output if name and name not in shapes]
    runs = list(_run(model, names, folder, sizes))
    shapes |= {name: [seen[name][0] for seen in runs] for name in names}
    values = {}
    for name in names:
        found = [value for _, value in (seen[name] for seen in runs) if value is not None]
        if len(found) == len(runs):
            values[name] = found
    return Observed(shapes, constants, values)


def _constants(model: onnx.ModelProto) -> dict[str, tuple[tuple[int, ...], NDArray[Any] | None]]:
    """Shape and, where it is small, value of what nothing computes: weights, and what hands them on; by name."""
    known: dict[str, tuple[tuple[int, ...], NDArray[Any] | None]] = {}
    for tensor in model.graph.initializer:
        shape = tuple(tensor.dims)
        known[tensor.name] = shape, numpy_helper.to_array(tensor) if np.prod(shape) <= FEW_VALUES else None
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = constant_array(node)
            known[node.output[0]] = value.shape, value if value.size <= FEW_VALUES else None
        elif node.op_type == "Identity" and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]]
    return known


def _run(
    model: onnx.ModelProto, names: Sequence[str], folder: Path, sizes: Sequence[tuple[int, int]]
) -> Iterator[dict[str, tuple[tuple[int, ...], list[int] | None]]]:
    """Per run, from a tensor's name to its shape and, where it may be a shape itself, its value."""
    given = [value.name for value in model.graph.input]
    session = watching_session(model, names, folder)
    for batch, tokens in sizes:
        arrays = session.run(list(names), random_inputs(given, batch, tokens))
        yield {name: (array.shape, _as_shape(array)) for name, array in zip(names, arrays, strict=True)}


def _as_shape(array: NDArray[Any]) -> list[int] | None:
    is_small = array.ndim == 1 and array.size <= FEW_VALUES and np.issubdtype(array.dtype, np.integer)
    return array.tolist() if is_small else None
