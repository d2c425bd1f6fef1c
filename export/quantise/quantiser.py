"""Writes the quantised graphs of one plain graph; what several precisions need is computed once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import onnx

from export.gates import Gate
from export.quantise.activations import input_histograms, largest_magnitudes
from export.quantise.clipping import METHODS
from export.quantise.exclusion import search
from export.quantise.forms import HALF, INTEGER_PRECISIONS, form_of, product_of
from export.quantise.half import find_fallbacks, to_half
from export.quantise.layers import choose_layers, find_layers, load_plain
from export.quantise.material import Quantising
from export.quantise.price import price_of
from export.quantise.probe import Probe
from export.quantise.ranges import Histogram
from export.quantise.replacement import Product
from export.quantise.rewrite import rewrite
from export.quantise.sensitivity import Switchboard, rank_by_error
from export.quantise.summary import QuantisationSummary, summarise
from export.runners import Runner, session_runner
from serving.errors import UserError
from serving.exclusion import Exclusion
from serving.kernels import products_saturate
from serving.manifest import TaskSpec
from serving.session import create_session
from serving.tokenise import TextEncoder

PRECISIONS = (*INTEGER_PRECISIONS, HALF)


class Quantiser:
    """One plain graph, its layers, and the texts to judge on."""

    def __init__(
        self,
        path: Path,
        encoder: TextEncoder,
        tasks: Sequence[TaskSpec],
        quantising: Quantising | None = None,
    ) -> None:
        """Read a graph.

        Args:
            path: as `export_graph` writes it, or `simplify` after it.
            encoder: of the graph's inputs.
            tasks: of its outputs.
            quantising: what to leave out, how to choose ranges, and the texts for both; None: nothing, and no texts.
        """
        self.path = path
        self.encoder = encoder
        self.tasks = tuple(tasks)
        found = quantising or Quantising()
        self.settings, self.material = found.settings, found.material
        self.plain = load_plain(path)
        self.layers = find_layers(self.plain)
        self.usable = [layer for layer in self.layers if layer.obstacle is None]

    def write(self, precision: str, target: Path) -> QuantisationSummary:
        """Write the graph in a precision of `PRECISIONS`.

        Raises:
            UserError: nothing in the graph could be quantised, an exclusion fits no layer, or texts are missing.
        """
        summary = self._write_half(target) if precision == HALF else self._write_integers(precision, target)
        if not summary.num_quantised:
            target.unlink()
            raise UserError(
                f"nothing in {self.path.name} could be quantised: it has no MatMul, Gemm or Gather with constant "
                f"weights outside the excluded layers. Leave {precision} out of export.precisions."
            )
        return summary

    def product(self, precision: str, ranges: str | None = None) -> Product:
        """What a precision makes of a matrix product on this CPU; `ranges` other than the settings' to compare."""
        needs_ranges = precision == "int8_static" and any(layer.is_product for layer in self.usable)
        method = METHODS[ranges or self.settings.ranges]
        found = {name: method(seen) for name, seen in self.histograms.items()} if needs_ranges else {}
        return product_of(precision, form_of(precision, saturates=products_saturate()), found)

    def graph(self, precision: str, excluded: Sequence[str] = (), ranges: str | None = None) -> onnx.ModelProto:
        """The graph in an integer precision, some layers left in fp32."""
        layers = [layer for layer in self.usable if layer.name not in excluded]
        return rewrite(self.plain, layers, self.product(precision, ranges))

    def switchboard(self, precision: str) -> Switchboard:
        """One session for any choice of quantised layers."""
        return Switchboard(self.plain, self.usable, self.product(precision), self.tasks)

    def runner(self, graph: onnx.ModelProto) -> Runner:
        """Answers of a graph."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.onnx"
            onnx.save_model(graph, str(path))
            return session_runner(create_session(path), self.tasks)

    @cached_property
    def histograms(self) -> dict[str, Histogram]:
        """Of every product's input, on the calibration texts."""
        encodings = self.material.calibration_encodings(self.encoder)
        return input_histograms(self.plain, self.usable, self.encoder, encodings)

    @cached_property
    def ranking_probe(self) -> Probe:
        """A few calibration texts, to compare layers on."""
        return Probe(self.encoder, self.tasks, self.material.ranking_samples(self.tasks), self._fp32)

    @cached_property
    def validation_probe(self) -> Probe:
        """The texts that decide the gate."""
        return Probe(self.encoder, self.tasks, self.material.validation, self._fp32)

    @cached_property
    def _fp32(self) -> Runner:
        return session_runner(create_session(self.path), self.tasks)

    def _write_integers(self, precision: str, target: Path) -> QuantisationSummary:
        exclusion = self._exclusion(precision)
        written = self.graph(precision, exclusion.layers)
        onnx.save_model(written, str(target))
        if exclusion.layers and self.material.validation:
            exclusion = price_of(exclusion, self.graph(precision), target, self.validation_probe)
        return summarise(self.plain, self.layers, written, actual_bytes=target.stat().st_size, exclusion=exclusion)

    def _write_half(self, target: Path) -> QuantisationSummary:
        encodings = self.material.calibration_encodings(self.encoder)
        found = find_fallbacks(self.plain, largest_magnitudes(self.plain, self.encoder, encodings))
        written = to_half(self.plain, found)
        onnx.save_model(written, str(target))
        return summarise(
            self.plain,
            self.layers,
            written,
            actual_bytes=target.stat().st_size,
            exclusion=Exclusion(mode="none", note="fp16 leaves in fp32 what would overflow"),
            fallbacks=found.reasons,
        )

    def _exclusion(self, precision: str) -> Exclusion:
        wanted = self.settings.exclude
        if not isinstance(wanted, str):
            layers = choose_layers(self.usable, wanted)
            return Exclusion(mode="by name", layers=tuple(x.name for x in layers), note="left in fp32 by the recipe")
        if wanted == "none" or not self.material.validation or not self.usable:
            why = "by the recipe" if wanted == "none" else "since there are no validation texts to judge on"
            return Exclusion(mode=wanted, note=f"nothing was left in fp32, {why}")
        return search(
            lambda excluded: self._gate(precision, excluded),
            lambda: self._ranking(precision),
            allow_inconclusive=self.settings.allow_inconclusive,
        )

    def _gate(self, precision: str, excluded: Sequence[str]) -> Gate:
        logits = self.validation_probe.logits(self.runner(self.graph(precision, excluded)))
        return self.validation_probe.gate(logits, subject=precision, limit=self.settings.metric_drop)

    def _ranking(self, precision: str) -> list[str]:
        probe = self.ranking_probe if self.material.calibration else self.validation_probe
        return rank_by_error(self.switchboard(precision), probe)
