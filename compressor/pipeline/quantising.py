"""What quantisation reads of a run, and the stage that explains what it did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from compressor.data.splits import TRAIN, VALIDATION, TaskData
from compressor.pipeline.samples import sample_of
from compressor.pipeline.stages import read_json, write_json
from compressor.recipe import Recipe
from export.candidate import Candidate, read_candidate
from export.quantise.doctor import explain
from export.quantise.material import Material, QuantiseSettings, Quantising
from export.quantise.quantiser import Quantiser
from serving.tokenise import TOKENIZER_FILE, TextEncoder

EXPLANATIONS_FILE = "explanations.json"


def quantising_of(recipe: Recipe, data: Mapping[str, TaskData]) -> Quantising:
    """How a recipe's student is quantised: training texts to learn from, validation texts to judge on."""
    export = recipe.export
    calibration = {name: sample_of(task, TRAIN).first(export.calibration_texts) for name, task in data.items()}
    return Quantising(
        QuantiseSettings(
            exclude=export.exclude if isinstance(export.exclude, str) else tuple(export.exclude),
            ranges=export.ranges,
            metric_drop=recipe.gates.quantisation_metric_drop,
            allow_inconclusive=recipe.gates.allow_inconclusive,
        ),
        Material(calibration, {name: sample_of(task, VALIDATION) for name, task in data.items()}),
    )


def key_fields(recipe: Recipe) -> dict[str, Any]:
    """The fields that quantisation reads, for the keys of stages; nothing for a recipe of fp32 alone."""
    export = recipe.export
    if set(export.precisions) == {"fp32"}:
        return {}
    fields: dict[str, Any] = {"exclude": export.exclude, "calibration_texts": export.calibration_texts}
    if export.exclude == "auto":
        fields["gate"] = [recipe.gates.quantisation_metric_drop, recipe.gates.allow_inconclusive]
    if "int8_static" in export.precisions:
        fields["ranges"] = export.ranges
    return fields


def explain_candidate(folder: Path, candidate: Path, quantising: Quantising) -> None:
    """Measure every quantised precision of a candidate layer by layer and write `EXPLANATIONS_FILE`."""
    found = read_candidate(candidate)
    encoder = TextEncoder.load(candidate / TOKENIZER_FILE, found.inputs)
    quantiser = Quantiser(candidate / found.plain.file, encoder, found.tasks, quantising)
    explained = {graph.precision: explain(quantiser, graph.precision) for graph in found.graphs if graph.quantisation}
    write_json(folder / EXPLANATIONS_FILE, msgspec.to_builtins(explained))


def read_explanation(folder: Path, candidate: Path) -> dict[str, Any]:
    """Per precision, what the candidate's file holds and what `explain_candidate` measured, as JSON values."""
    measured = read_json(folder / EXPLANATIONS_FILE)
    return {name: {**facts, **measured[name]} for name, facts in summaries(read_candidate(candidate)).items()}


def summaries(candidate: Candidate) -> dict[str, Any]:
    """Per quantised precision, what became of every layer, as JSON values."""
    return {
        graph.precision: {**msgspec.to_builtins(graph.quantisation), "num_quantised": graph.quantisation.num_quantised}
        for graph in candidate.graphs
        if graph.quantisation
    }
