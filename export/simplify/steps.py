"""Simplifying a graph's file step by step, each held against the graph as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

from export.agreement import LIMIT, SHAPES, relative_difference
from export.simplify.first_token import keep_first_token
from export.simplify.nodes import drop_unread, has_branches
from export.simplify.observed import Observed, observe
from export.simplify.shapes import fix_shapes

STEPS: tuple[tuple[str, Callable[[onnx.ModelProto, Observed], int]], ...] = (
    ("without computed shapes", fix_shapes),
    ("with the last layer for the first token", keep_first_token),
)


def simplify(path: Path, max_length: int) -> str | None:
    """Simplify a traced fp32 graph in its place; a step that fails or changes an answer is left out.

    Args:
        path: the file; its inputs are int64 [batch, tokens].
        max_length: tokens of the longest texts, at least 1.

    Returns:
        Which step was left out, and why; None where none was.
    """
    traced = onnx.load(path)
    if has_branches(traced.graph):
        return "the graph has branches; it is kept as torch traced it"
    shapes = [*((batch, min(tokens, max_length)) for batch, tokens in SHAPES), (1, max_length), (2, max_length)]
    notes = []
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        kept, made = path, Path(folder) / "made.onnx"
        for number, (name, step) in enumerate(STEPS):
            model = onnx.load(kept)
            try:
                num_changed = step(model, observe(model, Path(folder), max_length))
                drop_unread(model.graph)
                onnx.save_model(model, str(made))
                difference = relative_difference(path, made, shapes)
            except Exception as error:  # noqa: BLE001 - whatever it is, there is a graph that works
                notes.append(f"no graph {name} ({type(error).__name__})")
                continue
            if not difference <= LIMIT:
                notes.append(f"no graph {name}, which would change the logits by {difference:.2g}")
            elif num_changed:
                kept = made.replace(Path(folder) / f"kept{number}.onnx")
        if kept != path:
            kept.replace(path)
    return "; ".join(notes) or None
