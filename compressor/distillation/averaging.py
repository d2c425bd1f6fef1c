"""The mean of several models' weights, and whether it means anything: AVG.

Source: Xu, Qiu, Zhou and Huang (2020), arXiv:2002.10345: the mean of runs from the same initial weights, heads
included. From other initial weights, the mean of two good models is in general no good model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor


def mean_state(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every floating tensor over some state dicts, accumulated in float64.

    Tensors that are no floating numbers (positions, counters) are those of the first state. Names that share one
    tensor (tied weights) get equal values, so that a model that ties them stays tied.

    Args:
        states: one or more of the same names and shapes; read one after the other, none is kept or changed.

    Returns:
        New tensors in the dtypes of the first state.

    Raises:
        ValueError: no state, or one with other names or shapes.
    """
    first: dict[str, Tensor] = {}
    mean: dict[str, Tensor] = {}
    for count, state in enumerate(states):
        if not first:
            first = {name: tensor.detach().clone() for name, tensor in state.items()}
            mean = {name: tensor.double() for name, tensor in first.items() if tensor.is_floating_point()}
            continue
        if difference := shape_difference(shapes_of(first), shapes_of(state)):
            raise ValueError(difference)
        for name, total in mean.items():
            total += (state[name].detach().to(total) - total) / (count + 1)
    if not first:
        raise ValueError("there is no state to average")
    return {name: mean[name].to(tensor.dtype) if name in mean else tensor for name, tensor in first.items()}


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, Sequence[int]]:
    """The shape of every tensor by its name."""
    return {name: list(tensor.shape) for name, tensor in state.items()}


def shape_difference(first: Mapping[str, Sequence[int]], second: Mapping[str, Sequence[int]]) -> str | None:
    """The first name or shape that two architectures do not share, in words; None if they are the same."""
    for name in sorted(first.keys() ^ second.keys()):
        return f"only one of them has the tensor '{name}'"
    for name, shape in first.items():
        if list(shape) != list(second[name]):
            return f"'{name}' has the shape {list(shape)} in one and {list(second[name])} in the other"
    return None
