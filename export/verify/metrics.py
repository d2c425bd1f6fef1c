"""Claims about metrics: answered again on labelled texts, which must be the ones that were measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.fingerprint import hash_rows
from export.sample import Sample
from export.statistics import bootstrap_interval
from export.verify.claim import Claim, decided, failed, unchecked
from serving.answers import decide
from serving.bundle import Bundle
from serving.certification import certify_here, doubts
from serving.claims import Interval
from serving.errors import UserError
from serving.manifest import Artifact, Manifest

_ROUNDING = 1e-9
_NO_DATA = "needs the labelled texts that it was measured on: give --data or --run"


def metric_claims(
    folder: Path, manifest: Manifest, artifact: Artifact, samples: Mapping[str, Sample]
) -> Iterator[Claim]:
    """Every task's metric of one artifact."""
    for task, claimed in artifact.metrics.items():
        name = f"{artifact.file}: {claimed.metric} of {task} is {claimed.value:.4f}"
        if (sample := samples.get(task)) is None:
            yield unchecked(name, _NO_DATA)
            continue
        try:
            found = _measure(folder, artifact.precision, task, sample)
        except UserError as error:
            yield failed(name, str(error))
            continue
        yield _compare(name, claimed, found, sample, expected_hash=measured_hash(manifest, task), artifact=artifact)


def measured_hash(manifest: Manifest, task: str) -> str | None:
    """The hash of the labelled texts that a task's metrics were measured on, as the bundle says it; else None."""
    data: Mapping[str, Any] = (manifest.provenance.get("data") or {}).get(task) or {}
    split = data.get("splits", {}).get(data.get("measured_on")) or {}
    return split.get("sha256")


def _measure(folder: Path, precision: str, task: str, sample: Sample) -> tuple[float, float, float]:
    bundle = Bundle.load(folder, precision, check=False)
    logits = bundle.logits(sample.texts, tasks=[task], batch_size=bundle.safe_batch_size)
    (spec,) = bundle.model.choose_tasks([task])
    return bootstrap_interval(sample.metric, sample.labels, decide(logits[task], spec))


def _compare(
    name: str,
    claimed: Interval,
    found: tuple[float, float, float],
    sample: Sample,
    *,
    expected_hash: str | None,
    artifact: Artifact,
) -> Claim:
    """The same texts must give the same figures here, and within the interval on another machine."""
    value, low, high = found
    detail = f"{value:.4f} ({low:.4f} to {high:.4f}) on {len(sample.texts)} texts"
    claimed_ends = f"claimed {claimed.low:.4f} to {claimed.high:.4f}"
    if expected_hash is not None and expected_hash != hash_rows(sample.texts, sample.labels):
        return unchecked(name, f"{detail}, but they are not the ones that the claim is about; {claimed_ends}")
    is_within = claimed.low <= value <= claimed.high
    if expected_hash is None:
        return decided(name, f"{detail}, {claimed_ends}; the bundle has no hash of its texts", holds=is_within)
    if found_doubts := doubts(artifact.certified, certify_here()):
        return decided(name, f"{detail}, {claimed_ends}; {'; '.join(found_doubts)}", holds=is_within)
    ends = zip(found, (claimed.value, claimed.low, claimed.high), strict=True)
    return decided(name, f"{detail}, {claimed_ends}", holds=all(abs(a - b) <= _ROUNDING for a, b in ends))
