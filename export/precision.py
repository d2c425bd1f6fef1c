"""Facts about a graph that are read from its file."""

from __future__ import annotations

from pathlib import Path

import onnx

from export.quantise.summary import count_quantised


def opset_of(path: Path) -> int:
    """The opset of the default domain that a graph needs."""
    return next(int(entry.version) for entry in onnx.load(path).opset_import if entry.domain in ("", "ai.onnx"))


def ir_version_of(path: Path) -> int:
    """The IR version of a graph."""
    return int(onnx.load(path).ir_version)


def count_quantised_operators(path: Path) -> dict[str, int]:
    """By kind, how many operators of a graph read weights of fewer bits than fp32; empty for an fp32 graph."""
    return count_quantised(onnx.load(path))
