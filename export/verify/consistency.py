"""Claims that follow from others: a manifest that contradicts itself was edited by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from export.fingerprint import hash_value
from export.gates import Gate
from export.measure import golden_tolerance
from export.parity.invariance import INVARIANCE_LIMIT
from export.quantise.forms import HALF
from export.verify.claim import Claim, checked, decided, equal, failed, unchecked
from serving.kernels import SATURATING_KERNELS, int8_kernels
from serving.manifest import Artifact, Manifest

_ROUNDING = 1e-9


def artifact_consistency(manifest: Manifest, artifact: Artifact) -> Iterator[Claim]:
    """Tolerance, invariance, gates and certification of one artifact."""
    yield from _tolerance_claim(artifact)
    yield from _batch_claim(artifact)
    yield _passed_claim(manifest, artifact)
    yield from _certification_claims(artifact)


def bundle_consistency(manifest: Manifest) -> Iterator[Claim]:
    """Name and version, the default artifact, and verdicts that follow from their numbers."""
    yield from _identity_claims(manifest)
    yield _default_claim(manifest)
    for gate in manifest.gates:
        yield _gate_claim(gate)


def _identity_claims(manifest: Manifest) -> Iterator[Claim]:
    """What the manifest says of itself, and the same in what it says of the run that made it."""
    facts = manifest.provenance
    recipe, stages = facts.get("recipe"), facts.get("stages") or {}
    if isinstance(recipe, Mapping) and "recipe_sha256" in facts:
        yield equal("the recipe is the one of its hash", facts["recipe_sha256"], lambda: hash_value(recipe))
        yield equal("the name is the recipe's", manifest.name, lambda: recipe.get("name"))
    if "measurements" in stages:
        yield equal("the version is that of the measurements", manifest.version, lambda: stages["measurements"])


def _tolerance_claim(artifact: Artifact) -> Iterator[Claim]:
    name = f"{artifact.file}: tolerance of the golden examples"
    if artifact.batch_difference is None or not artifact.parity:
        yield unchecked(name, "the bundle lacks the figures that it follows from")
        return
    expected = golden_tolerance(artifact.precision, artifact.batch_difference, artifact.parity)
    holds = math.isclose(expected, artifact.tolerance, rel_tol=_ROUNDING)
    yield decided(name, f"{artifact.tolerance:.3g}, from the measured differences follows {expected:.3g}", holds=holds)


def _batch_claim(artifact: Artifact) -> Iterator[Claim]:
    if artifact.batch_difference is None or not artifact.invariance:
        return
    largest = max(found.max_difference for found in artifact.invariance.values())
    says = (largest, largest <= INVARIANCE_LIMIT)
    yield decided(
        f"{artifact.file}: batch difference",
        f"{artifact.batch_difference:.3g}, the largest of its tasks is {largest:.3g}",
        holds=says == (artifact.batch_difference, artifact.batch_invariant),
    )


def _passed_claim(manifest: Manifest, artifact: Artifact) -> Claim:
    """Passed: none of its own gates failed; not passed: some gate of the ladder did not pass."""
    name = f"{artifact.file}: {'passed' if artifact.passed else 'did not pass'} its gates"
    if not manifest.gates:
        return failed(name, "there are no gates") if artifact.passed else checked(name, "there are no gates")
    own = {str(gate["verdict"]) for gate in manifest.gates if str(gate["subject"]).split(" ")[0] == artifact.precision}
    every = {str(gate["verdict"]) for gate in manifest.gates}
    holds = bool(own) and "failed" not in own if artifact.passed else every != {"passed"}
    return decided(name, f"verdicts: {', '.join(sorted(own)) or 'none'}", holds=holds)


def _default_claim(manifest: Manifest) -> Claim:
    """The artifact that is served passed its gates and is the fastest of those that did."""
    name = f"the default artifact is {manifest.default_artifact}"
    passed = {a.precision: a.latency_seconds for a in manifest.artifacts if a.passed and a.precision != HALF}
    if manifest.default_artifact not in passed:
        detail = f"passed are {', '.join(passed) or 'none'}"
        return decided(name, detail, holds=manifest.default_artifact is None and not passed)
    timed = {precision: seconds for precision, seconds in passed.items() if seconds is not None}
    if not timed:
        return checked(name, "it passed; none was timed")
    fastest = min(timed, key=timed.__getitem__)
    return decided(name, f"it passed; the fastest of these is {fastest}", holds=fastest == manifest.default_artifact)


def _gate_claim(gate: dict[str, Any]) -> Claim:
    """`Gate` refuses a verdict that does not follow from its numbers."""
    name = f"gate {gate.get('name')} of {gate.get('subject')}: {gate.get('verdict')}"
    try:
        found = msgspec.convert(gate, Gate)
    except msgspec.ValidationError as error:
        return failed(name, str(error))
    return checked(name, f"follows from {found.measured} ({found.low} to {found.high}), limit {found.limit}")


def _certification_claims(artifact: Artifact) -> Iterator[Claim]:
    name = f"{artifact.file}: what it was certified on"
    if (certified := artifact.certified) is None:
        yield unchecked(name, "the bundle does not say")
        return
    expected = int8_kernels(certified.cpu_features)
    yield decided(
        f"{name} has {certified.int8_kernels} int8 kernels",
        f"its instruction sets mean {expected}",
        holds=expected == certified.int8_kernels,
    )
    if certified.saturates_int8 is not None:
        word = "saturate" if certified.saturates_int8 else "do not saturate"
        is_expected = certified.saturates_int8 == (certified.int8_kernels in SATURATING_KERNELS)
        detail = f"{'as' if is_expected else 'unlike what'} {certified.int8_kernels} kernels are known to do"
        yield (checked if is_expected else unchecked)(f"{name}: 8-bit products {word}", detail)
