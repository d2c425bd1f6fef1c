"""Simplifying a graph's file step by step, each held against the graph as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

from export.agreement import LIMIT, SHAPES, relative_difference
from export.graph import first_line
from export.nodes import drop_unread, has_branches
from export.simplify.first_token import keep_first_token
from export.simplify.observed import Observed, observe
from export.simplify.shapes import fix_shapes

Step = Callable[[onnx.ModelProto, Observed], int]
STEPS: tuple[tuple[str, Step], ...] = (
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
    if has_branches(onnx.load(path).graph):
        return "the graph has branches; it is kept as torch traced it"
    shapes = [*((batch, min(tokens, max_length)) for batch, tokens in SHAPES), (2, max_length)]
    notes: list[str] = []
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        kept = path
        for number, (name, step) in enumerate(STEPS):
            made = Path(folder) / f"step-{number}.onnx"
            try:
                if not _write(made, step, kept, max_length):
                    continue
                difference = relative_difference(path, made, shapes)
            except Exception as error:  # noqa: BLE001 - whatever it is, there is a graph that works
                notes.append(f"no graph {name} ({type(error).__name__}: {first_line(error)})")
                continue
            if difference <= LIMIT:
                kept = made
            else:
                notes.append(f"no graph {name}, which would change the logits by {difference:.2g}")
        kept.replace(path)
    return "; ".join(notes) or None


def _write(made: Path, step: Step, source: Path, max_length: int) -> bool:
    """Write a graph after one more step; False where the step finds nothing to do."""
    model = onnx.load(source)
    if not step(model, observe(model, made.parent, max_length)):
        return False
    drop_unread(model.graph)
    onnx.save_model(model, str(made))
    return True
