"""Claims held against the run that made the bundle: what it recorded, and the same measured once more."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from export.bundle import manifest_facts
from export.candidate import Candidate
from export.measure import Measurements
from export.verify.claim import Claim, checked, decided, failed, unchecked
from serving.certification import certify_here, doubts
from serving.host import available_cpus
from serving.manifest import Artifact, Manifest

MEASURED_FIELDS = ("metrics", "parity", "calibration", "ladder", "invariance", "batch_difference", "passed")
"""Fields of an artifact that are measured once more."""

NOISE = 2e-5
"""Torch adds up in another order with other threads: logit differences below this are rounding."""

SHARE = 0.05
TIMING_FACTOR = 3.0
"""Two timings of the same graph on the same CPU lie within this factor; a rough check, for rough machines."""


@dataclass(frozen=True)
class Origin:
    """What the run kept that a bundle does not hold.

    Attributes:
        name: of the recipe.
        version: what the bundle's version must be.
        candidate: the graphs as they were exported.
        measurements: what was measured of them.
        remeasure: measures the run's graphs against its torch student once more.
        provenance: facts that the bundle's provenance must repeat, by their names there, found anew in the run.
    """

    name: str
    version: str
    candidate: Candidate
    measurements: Measurements
    remeasure: Callable[[], Measurements]
    provenance: Mapping[str, Any]


def origin_claims(manifest: Manifest, origin: Origin) -> Iterator[Claim]:
    """Everything that a run can say about its bundle."""
    yield from _identity_claims(manifest, origin)
    yield from _record_claims(manifest, origin)
    yield from _remeasured_claims(manifest, origin)


def _identity_claims(manifest: Manifest, origin: Origin) -> Iterator[Claim]:
    for field, expected in (("name", origin.name), ("version", origin.version)):
        found = getattr(manifest, field)
        yield decided(f"{field} is {found}", f"the run's is {expected}", holds=found == expected)
    for field, expected in origin.provenance.items():
        place = first_difference(_json(manifest.provenance.get(field)), _json(expected))
        detail = "as in the run" if place is None else f"differs from the run at {place or 'its value'}"
        yield decided(f"provenance: {field}", detail, holds=place is None)


def _record_claims(manifest: Manifest, origin: Origin) -> Iterator[Claim]:
    """The manifest is a function of what was exported and measured."""
    for field, expected in manifest_facts(origin.candidate, origin.measurements).items():
        place = first_difference(_json(getattr(manifest, field)), _json(expected))
        detail = "as the run recorded it" if place is None else f"the run recorded something else at {place or field}"
        yield decided(f"{field} of the manifest", detail, holds=place is None)


def _remeasured_claims(manifest: Manifest, origin: Origin) -> Iterator[Claim]:
    measured = origin.remeasure()
    again = {a.precision: a for a in manifest_facts(origin.candidate, measured)["artifacts"]}
    for artifact in manifest.artifacts:
        if artifact.precision not in again:
            yield failed(f"{artifact.file}: measured again", "the run has no such artifact that answers")
            continue
        yield from _artifact_claims(artifact, again[artifact.precision])
        yield _timing_claim(artifact, again[artifact.precision])
    yield _gates_claim(manifest, measured)


def _artifact_claims(claimed: Artifact, found: Artifact) -> Iterator[Claim]:
    """Field by field; where this machine is another one, a difference proves nothing."""
    reasons = doubts(claimed.certified, certify_here())
    for field in MEASURED_FIELDS:
        if not hasattr(claimed, field):
            continue
        name = f"{claimed.file}: {field}, measured again"
        place = first_difference(_json(getattr(claimed, field)), _json(getattr(found, field)), is_measured=True)
        if place is None:
            yield checked(name, "as claimed")
        elif reasons:
            yield unchecked(name, f"differs at {place or field}, but {'; '.join(reasons)}")
        else:
            yield failed(name, f"differs at {place or field}")


def _gates_claim(manifest: Manifest, measured: Measurements) -> Claim:
    """The gates of artifacts; those of the student against its teacher are not measured here."""
    claimed = {(str(gate["name"]), str(gate["subject"])): str(gate["verdict"]) for gate in manifest.gates}
    changed = [
        f"{gate.name} of {gate.subject} {gate.verdict}, claimed {claimed.get((gate.name, gate.subject))}"
        for gate in measured.gates
        if claimed.get((gate.name, gate.subject)) != gate.verdict
    ]
    return decided("gates, measured again", "; ".join(changed) or "the same verdicts", holds=not changed)


def _timing_claim(claimed: Artifact, found: Artifact) -> Claim:
    name = f"{claimed.file}: time of one text"
    here, there = certify_here(), claimed.certified
    if claimed.latency_seconds is None or found.latency_seconds is None:
        return unchecked(name, "it was not timed")
    if there is None or there.cpu_model != here.cpu_model:
        return unchecked(name, f"needs a {there.cpu_model if there else 'CPU that the bundle names'}")
    factor = found.latency_seconds / claimed.latency_seconds
    detail = f"{1000 * found.latency_seconds:.3g} ms, claimed {1000 * claimed.latency_seconds:.3g} ms"
    if 1 / TIMING_FACTOR <= factor <= TIMING_FACTOR:
        return checked(name, detail)
    if factor > 1 and os.getloadavg()[0] > available_cpus() / 2:
        return unchecked(name, f"{detail}, but this machine is busy with other work")
    return failed(name, detail)


def first_difference(claimed: Any, found: Any, *, is_measured: bool = False, place: str = "") -> str | None:
    """Where two JSON values differ first; None where they do not.

    Args:
        claimed: of the bundle.
        found: of the run.
        is_measured: floats may differ by rounding, and by a twentieth of their size.
        place: of both, within what is compared.
    """
    if isinstance(claimed, dict) and isinstance(found, dict):
        pairs = {key: (claimed.get(key), found.get(key)) for key in (*claimed, *found)}
    elif isinstance(claimed, list) and isinstance(found, list) and len(claimed) == len(found):
        pairs = {str(index): pair for index, pair in enumerate(zip(claimed, found, strict=True))}
    else:
        return None if _is_same(claimed, found, is_measured=is_measured) else place
    places = (
        first_difference(one, other, is_measured=is_measured, place=f"{place}.{key}".lstrip("."))
        for key, (one, other) in pairs.items()
    )
    return next((found_place for found_place in places if found_place is not None), None)


def _is_same(claimed: Any, found: Any, *, is_measured: bool) -> bool:
    is_number = isinstance(claimed, float) and isinstance(found, int | float) and not isinstance(found, bool)
    if is_measured and is_number:
        return math.isclose(claimed, found, rel_tol=SHARE, abs_tol=NOISE)
    return bool(claimed == found) and isinstance(claimed, bool) == isinstance(found, bool)


def _json(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))
