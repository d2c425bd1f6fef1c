"""A bundle from a candidate and its measurements: the last step before serving."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.candidate import Candidate, Graph, read_candidate
from export.card import CARD_FILE, model_card
from export.measure import ArtifactMeasurements, Measurements
from serving.errors import UserError
from serving.golden import write_golden
from serving.hashing import hash_file
from serving.manifest import GOLDEN_FILE, Artifact, Manifest, write_manifest
from serving.tokenise import TOKENIZER_FILE


def assemble_bundle(
    candidate_folder: Path,
    measurements: Measurements,
    folder: Path,
    *,
    name: str,
    version: str,
    provenance: Mapping[str, Any] | None = None,
) -> Manifest:
    """Join graphs and what was measured of them in a new folder that `serving.bundle.Bundle` loads.

    Args:
        candidate_folder: as `export_candidate` wrote it.
        measurements: of this candidate.
        folder: the bundle; must be empty or not there.
        name: of the model.
        version: of the model.
        provenance: recipe, versions, data hashes, date; ready for JSON.

    Raises:
        UserError: the folder holds something, or the candidate was changed after it was measured.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"'{folder}' is not empty. Give a new folder for the bundle.")
    candidate = read_candidate(candidate_folder)
    folder.mkdir(parents=True, exist_ok=True)
    _copy_checked(candidate, candidate_folder, folder)
    write_golden(folder, measurements.golden)
    manifest = Manifest(
        name=name,
        version=version,
        tasks=candidate.tasks,
        inputs=candidate.inputs,
        artifacts=_artifacts(candidate, measurements),
        default_artifact=measurements.default_artifact,
        provenance=dict(provenance or {}),
        files=candidate.files | {GOLDEN_FILE: hash_file(folder / GOLDEN_FILE)},
    )
    (folder / CARD_FILE).write_text(model_card(manifest, measurements), encoding="utf-8")
    write_manifest(folder, manifest)
    return manifest


def _copy_checked(candidate: Candidate, source: Path, target: Path) -> None:
    hashes = candidate.files | {graph.file: graph.sha256 for graph in candidate.graphs}
    if TOKENIZER_FILE not in hashes:
        raise UserError(f"the candidate '{source}' has no {TOKENIZER_FILE}. Run the export stage again.")
    for name, expected in hashes.items():
        shutil.copyfile(source / name, target / name)
        if hash_file(target / name) != expected:
            raise UserError(
                f"'{source / name}' is not the file that was exported and measured. Run the export stage again."
            )


def _artifacts(candidate: Candidate, measurements: Measurements) -> tuple[Artifact, ...]:
    graphs = {graph.precision: graph for graph in candidate.graphs}
    measured = {artifact.precision: artifact for artifact in measurements.artifacts}
    if graphs.keys() != measured.keys():
        raise UserError(
            f"the candidate has the precisions {', '.join(graphs)}, but measured were {', '.join(measured)}. "
            "Run the measure stage again."
        )
    features = measurements.cpu_features
    return tuple(_artifact(graph, measured[name], features) for name, graph in graphs.items())


def _artifact(graph: Graph, measured: ArtifactMeasurements, cpu_features: tuple[str, ...]) -> Artifact:
    return Artifact(
        precision=graph.precision,
        file=graph.file,
        sha256=graph.sha256,
        bytes=graph.bytes,
        opset=graph.opset,
        ir_version=graph.ir_version,
        metrics=measured.metrics,
        parity=measured.parity,
        tolerance=measured.tolerance,
        batch_difference=measured.batch_difference,
        batch_invariant=measured.is_batch_invariant,
        cpu_features=cpu_features,
        passed=measured.passed,
        quantised_nodes=graph.quantisation.num_quantised if graph.quantisation else 0,
    )
