"""Which execution provider computes which operator of a session: a GPU session that works on the CPU is named.

ONNX Runtime gives an operator without a kernel on the GPU to the CPU in silence, with a copy there and back. Work on
shapes belongs on the CPU and is no fallback.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from serving.errors import UserError

CPU_PROVIDER = "CPUExecutionProvider"
BOOKKEEPING = frozenset(
    {
        "Add",
        "Cast",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Expand",
        "Floor",
        "Gather",
        "Greater",
        "Identity",
        "If",
        "Less",
        "LessOrEqual",
        "MemcpyFromHost",
        "MemcpyToHost",
        "Min",
        "Max",
        "Mod",
        "Mul",
        "Not",
        "Range",
        "ReduceMax",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
"""Operators that compute shapes and positions, a few numbers per call."""

Placement = Mapping[str, Mapping[str, int]]
"""Per provider, the number of nodes of each operator."""


def placement_of(session: Any) -> dict[str, dict[str, int]]:
    """Count a session's nodes by the provider that computes them.

    Args:
        session: of `create_session`, which has ONNX Runtime record it.
    """
    counts: dict[str, Counter[str]] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        operators = counts.setdefault(subgraph.ep_name, Counter())
        operators.update(node.op_type for node in subgraph.get_nodes())
    return {provider: dict(operators) for provider, operators in counts.items()}


def nodes_per_provider(placement: Placement) -> dict[str, int]:
    """The number of nodes that each provider computes."""
    return {provider: sum(operators.values()) for provider, operators in placement.items()}


def fallback_of(placement: Placement, device: str) -> dict[str, int]:
    """The operators, with their numbers, that a GPU session computes on the CPU; empty on the CPU itself."""
    if device == "cpu":
        return {}
    return {name: number for name, number in placement.get(CPU_PROVIDER, {}).items() if name not in BOOKKEEPING}


def check_placement(placement: Placement, device: str, *, name: str) -> None:
    """UserError when a GPU session would compute on the CPU; names the operators.

    Args:
        placement: of the session.
        device: that was asked for.
        name: of the graph.
    """
    if fallback := fallback_of(placement, device):
        operators = ", ".join(f"{operator} ({number})" for operator, number in sorted(fallback.items()))
        raise UserError(
            f"{name} on {device} would compute on the CPU what has no kernel there: {operators}. Use a precision "
            "that the device has kernels for (fp32, fp16), or time it all the same with benchmark.allow_cpu_fallback."
        )
