"""A session that gives out what flows inside a graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from serving.session import create_session

if TYPE_CHECKING:
    import onnxruntime


def watching_session(model: onnx.ModelProto, names: Sequence[str], folder: Path) -> onnxruntime.InferenceSession:
    """A session of a graph of which the named tensors can be asked for, beside its outputs.

    Args:
        model: left as it is.
        names: of tensors that its nodes compute.
        folder: for the session's file.

    Raises:
        BundleError: the graph cannot be loaded.
    """
    num_outputs = len(model.graph.output)
    own = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
    try:
        onnx.save_model(model, str(folder / "watched.onnx"))
    finally:
        del model.graph.output[num_outputs:]
    return create_session(folder / "watched.onnx")
