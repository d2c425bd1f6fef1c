"""What each layer's quantisation costs: it alone in fewer bits, and all layers but it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx

from export.quantise.effect import Effect
from export.quantise.layers import Layer
from export.quantise.probe import Probe
from export.quantise.replacement import Product
from export.quantise.rewrite import switch_of, switchable
from export.runners import Inputs, Logits, Runner
from serving.manifest import TaskSpec
from serving.session import create_session


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer's quantisation costs.

    Attributes:
        layer: its name.
        only: when this layer alone is quantised.
        without: when all layers but this one are.
    """

    layer: str
    only: Effect
    without: Effect


class Switchboard:
    """One session in which any choice of layers is quantised: a flag per layer picks between two results."""

    def __init__(
        self, plain: onnx.ModelProto, layers: Sequence[Layer], product: Product, tasks: Sequence[TaskSpec]
    ) -> None:
        self.layers = tuple(layers)
        self._tasks = tuple(tasks)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "switchable.onnx"
            onnx.save_model(switchable(plain, layers, product), str(path))
            self._session = create_session(path)

    def runner(self, quantised: Collection[str]) -> Runner:
        """Answers with the named layers quantised and all others in fp32."""
        flags = {switch_of(layer): np.array(layer.name in quantised) for layer in self.layers}
        wanted = [task.output for task in self._tasks]

        def run(inputs: Inputs) -> Logits:
            logits = self._session.run(wanted, {**inputs, **flags})
            return dict(zip((task.name for task in self._tasks), logits, strict=True))

        return run


def measure_sensitivity(board: Switchboard, probe: Probe) -> list[Sensitivity]:
    """Every layer of a board alone and left out, in the graph's order."""
    names = {layer.name for layer in board.layers}
    return [
        Sensitivity(
            layer=layer.name,
            only=probe.effect(probe.logits(board.runner({layer.name}))),
            without=probe.effect(probe.logits(board.runner(names - {layer.name}))),
        )
        for layer in board.layers
    ]


def rank_by_error(board: Switchboard, probe: Probe) -> list[str]:
    """Layers, that first whose quantisation alone changes the logits most.

    The error of all layers but one is no measure: upstream rounding decides for a few texts on which side of a step
    they fall, and a harmless layer that is left out looks as if it had mended that.
    """
    errors = {
        layer.name: probe.effect(probe.logits(board.runner({layer.name}))).squared_error for layer in board.layers
    }
    return sorted(errors, key=errors.__getitem__, reverse=True)
