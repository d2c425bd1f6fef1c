"""A bundle from a candidate and its measurements: the last step before serving."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from export.candidate import CANDIDATE_FILE, Candidate, Graph, read_candidate
from export.card import CARD_FILE, model_card
from export.confidence import all_calibrated
from export.gates import describe_gate
from export.measure import ArtifactMeasurements, Measurements
from serving.errors import GateFailed, UserError
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
        GateFailed: no graph of the candidate answers.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"'{folder}' is not empty. Give a new folder for the bundle.")
    candidate = read_candidate(candidate_folder)
    _check_measured(candidate, candidate_folder, measurements)
    folder.mkdir(parents=True, exist_ok=True)
    _copy_checked(candidate, _answering(candidate, measurements), candidate_folder, folder)
    write_golden(folder, measurements.golden)
    facts = manifest_facts(candidate, measurements)
    files = candidate.files | {GOLDEN_FILE: hash_file(folder / GOLDEN_FILE)}
    manifest = Manifest(name=name, version=version, provenance=dict(provenance or {}), files=files, **facts)
    (folder / CARD_FILE).write_text(model_card(manifest, measurements.golden.source), encoding="utf-8")
    write_manifest(folder, manifest)
    return manifest


def manifest_facts(candidate: Candidate, measurements: Measurements) -> dict[str, Any]:
    """The fields of a manifest that follow from a candidate and what was measured of it, and from nothing else."""
    return {
        "tasks": all_calibrated(candidate.tasks, measurements.temperatures),
        "inputs": candidate.inputs,
        "artifacts": _artifacts(candidate, measurements),
        "default_artifact": measurements.default_artifact,
        "student": measurements.student,
        "gates": tuple(msgspec.to_builtins(gate) for gate in measurements.gates),
        "target": measurements.target,
    }


def _copy_checked(candidate: Candidate, graphs: Sequence[Graph], source: Path, target: Path) -> None:
    hashes = candidate.files | {graph.file: graph.sha256 for graph in graphs}
    if TOKENIZER_FILE not in hashes:
        raise UserError(f"the candidate '{source}' has no {TOKENIZER_FILE}. Run the export stage again.")
    for name, expected in hashes.items():
        shutil.copyfile(source / name, target / name)
        if hash_file(target / name) != expected:
            raise UserError(
                f"'{source / name}' is not the file that was exported and measured. Run the export stage again."
            )


def _check_measured(candidate: Candidate, source: Path, measurements: Measurements) -> None:
    """Claims of one candidate must not be signed onto another, and there must be something to claim."""
    if hash_file(source / CANDIDATE_FILE) != measurements.candidate:
        raise UserError(f"the candidate '{source}' is not the one that was measured. Run the measure stage again.")
    if not measurements.artifacts:
        failed = [describe_gate(gate) for gate in measurements.gates if gate.verdict != "passed"]
        raise GateFailed(f"no graph of '{source}' answers, so there is nothing to bundle: {'; '.join(failed)}")


def _answering(candidate: Candidate, measurements: Measurements) -> list[Graph]:
    """The graphs that gave numbers everywhere; of any other nothing can be claimed, and it is left out."""
    measured = {artifact.precision for artifact in measurements.artifacts}
    return [graph for graph in candidate.graphs if graph.precision in measured]


def _artifacts(candidate: Candidate, measurements: Measurements) -> tuple[Artifact, ...]:
    measured = {artifact.precision: artifact for artifact in measurements.artifacts}
    graphs = _answering(candidate, measurements)
    return tuple(_artifact(graph, measured[graph.precision], measurements) for graph in graphs)


def _artifact(graph: Graph, measured: ArtifactMeasurements, measurements: Measurements) -> Artifact:
    return Artifact(
        precision=graph.precision,
        file=graph.file,
        sha256=graph.sha256,
        bytes=graph.bytes,
        opset=graph.opset,
        ir_version=graph.ir_version,
        metrics=measured.metrics,
        parity=measured.parity,
        calibration=measured.calibration,
        ladder=measured.ladder,
        invariance=measured.invariance,
        tolerance=measured.tolerance,
        batch_difference=measured.batch_difference,
        batch_invariant=measured.is_batch_invariant,
        certified=measurements.certified,
        latency_seconds=measurements.latency_seconds.get(graph.precision),
        passed=measured.passed,
        quantised_nodes=graph.quantisation.num_quantised if graph.quantisation else 0,
        exclusion=graph.quantisation.exclusion if graph.quantisation else None,
    )
