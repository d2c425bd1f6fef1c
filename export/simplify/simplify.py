"""Simplifying a graph's file, and the proof that it still says the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from export.agreement import LIMIT, largest_difference
from export.simplify.first_token import keep_first_token
from export.simplify.nodes import drop_unread
from export.simplify.observed import observe
from export.simplify.shapes import fix_shapes


def simplify(path: Path) -> str | None:
    """Simplify a traced fp32 graph in its place.

    Args:
        path: the file; its inputs are int64 [batch, tokens].

    Returns:
        Why the graph was left as it was; None where it was not.
    """
    model = onnx.load(path)
    fix_shapes(model, observe(model))
    drop_unread(model.graph)
    keep_first_token(model, observe(model))
    drop_unread(model.graph)
    del model.graph.value_info[:]  # some of these shapes are smaller now
    with tempfile.TemporaryDirectory() as folder:
        simple = Path(folder) / path.name
        onnx.save_model(model, str(simple))
        difference = largest_difference(path, simple)
    if not difference <= LIMIT:
        return f"a simpler graph would change the logits by {difference:.2g}; it is kept as torch traced it"
    onnx.save_model(model, str(path))
    return None
