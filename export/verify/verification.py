"""All claims of a bundle, one by one; a failed one does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from export.sample import Sample
from export.verify.card import card_claims
from export.verify.claim import Claim, checked, unchecked
from export.verify.consistency import artifact_consistency, bundle_consistency
from export.verify.files import config_claims, file_claims, task_claims
from export.verify.graphs import graph_claims, target_claims
from export.verify.metrics import metric_claims
from export.verify.origin import Origin, origin_claims
from export.verify.replayed import replayed_claims
from serving.certification import certify_here, doubts
from serving.manifest import Artifact, Manifest, read_manifest

_NEEDS_RUN = "needs the torch student and what the run recorded: give --run"


def verify(folder: Path, samples: Mapping[str, Sample] | None = None, *, origin: Origin | None = None) -> list[Claim]:
    """Check a bundle's claims.

    Args:
        folder: the bundle.
        samples: per task, the labelled texts that its metrics were measured on.
        origin: the run that made it, where it is at hand.

    Raises:
        BundleError: there is no readable manifest, so there are no claims.
    """
    manifest = read_manifest(folder)
    claims = [*file_claims(folder, manifest), *config_claims(folder, manifest), *task_claims(manifest)]
    for artifact in manifest.artifacts:
        claims += graph_claims(folder, artifact)
        claims += replayed_claims(folder, artifact)
        claims += metric_claims(folder, manifest, artifact, samples or {})
        claims += artifact_consistency(manifest, artifact)
        claims.append(_machine_claim(artifact))
    claims += [*bundle_consistency(manifest), *target_claims(manifest), *card_claims(folder, manifest)]
    claims += origin_claims(manifest, origin) if origin is not None else _without_run(manifest)
    return claims


def _machine_claim(artifact: Artifact) -> Claim:
    name = f"{artifact.file}: measured on a machine like this one"
    found = doubts(artifact.certified, certify_here())
    return unchecked(name, "; ".join(found)) if found else checked(name, "same kind of CPU, same runtime")


def _without_run(manifest: Manifest) -> Iterator[Claim]:
    """What only the run can show, so that nobody takes silence for a proof."""
    for artifact in manifest.artifacts:
        yield unchecked(f"{artifact.file}: parity with the torch model", _NEEDS_RUN)
        yield unchecked(f"{artifact.file}: time of one text", f"{_NEEDS_RUN}, on the same CPU")
        if artifact.calibration:
            yield unchecked(f"{artifact.file}: calibration", _NEEDS_RUN)
    if manifest.gates:
        yield unchecked("gates, measured again", _NEEDS_RUN)
    for field in ("name", "version", "provenance"):
        yield unchecked(f"{field}: as the run says", _NEEDS_RUN)
