"""What can be checked of a bundle's claims, here and now; what cannot be checked is said so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from export.candidate import CONFIG_FILE
from export.measure import Sample
from export.precision import count_int8_operators, ir_version_of, opset_of
from serving.answers import decide
from serving.bundle import Bundle
from serving.errors import BundleError
from serving.golden import read_golden, replay
from serving.hashing import hash_file
from serving.host import cpu_features
from serving.manifest import Artifact, Manifest, read_manifest

Status = Literal["checked", "failed", "not checkable here"]


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One claim of a bundle.

    Attributes:
        name: what is claimed, for example `model.int8.onnx: sha256`.
        status: checked, failed, or not checkable here.
        detail: what was found, or what it would take to check it.
    """

    name: str
    status: Status
    detail: str


def verify(folder: Path, samples: Mapping[str, Sample] | None = None) -> list[Claim]:
    """Check a bundle's claims one by one; a failed one does not stop the others.

    Args:
        folder: the bundle.
        samples: per task, the labelled texts that its metrics were measured on.

    Raises:
        BundleError: there is no readable manifest, so there are no claims.
    """
    manifest = read_manifest(folder)
    claims = [*_file_claims(folder, manifest), _label_claim(folder, manifest)]
    for artifact in manifest.artifacts:
        claims += _artifact_claims(folder, manifest, artifact)
        claims += _metric_claims(folder, manifest, artifact, samples or {})
        claims += _unchecked_claims(manifest, artifact)
    return claims


def _file_claims(folder: Path, manifest: Manifest) -> Iterator[Claim]:
    hashes = manifest.files | {artifact.file: artifact.sha256 for artifact in manifest.artifacts}
    for name, expected in hashes.items():
        yield _claim(f"{name}: sha256", expected, partial(hash_file, folder / name))


def _label_claim(folder: Path, manifest: Manifest) -> Claim:
    """Other tools read labels from config.json, this one from the manifest: they must agree."""
    name = "labels: manifest and config.json agree"
    if len(manifest.tasks) != 1:
        return Claim(
            name=name,
            status="not checkable here",
            detail="with several tasks config.json holds no labels",
        )
    task = manifest.tasks[0]
    return _claim(name, list(task.labels or (task.name,)), lambda: _config_labels(folder))


def _config_labels(folder: Path) -> list[str]:
    labels = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["id2label"]
    return [labels[key] for key in sorted(labels, key=int)]


def _artifact_claims(folder: Path, manifest: Manifest, artifact: Artifact) -> Iterator[Claim]:
    path = folder / artifact.file
    yield _claim(f"{artifact.file}: bytes", artifact.bytes, lambda: path.stat().st_size)
    yield _claim(f"{artifact.file}: opset", artifact.opset, lambda: opset_of(path))
    yield _claim(f"{artifact.file}: IR version", artifact.ir_version, lambda: ir_version_of(path))
    yield _claim(
        f"{artifact.file}: int8 operators",
        artifact.quantised_nodes,
        lambda: sum(count_int8_operators(path).values()),
    )
    yield _golden_claim(folder, manifest, artifact)


def _golden_claim(folder: Path, manifest: Manifest, artifact: Artifact) -> Claim:
    name = f"{artifact.file}: golden examples"
    try:
        golden = read_golden(folder)
        replay(golden, Bundle.load(folder, artifact.precision, check=False).model, artifact)
    except BundleError as error:
        return Claim(name=name, status="failed", detail=str(error))
    detail = f"all {len(golden.texts)} repeated within {artifact.tolerance:.2g}"
    return Claim(name=name, status="checked", detail=detail)


def _metric_claims(
    folder: Path, manifest: Manifest, artifact: Artifact, samples: Mapping[str, Sample]
) -> Iterator[Claim]:
    for task in manifest.tasks:
        claimed = artifact.metrics.get(task.name)
        if claimed is None:
            continue
        name = f"{artifact.file}: {claimed.metric} of {task.name} is {claimed.value:.4f}"
        if (sample := samples.get(task.name)) is None:
            yield Claim(name=name, status="not checkable here", detail="needs labelled texts: give --data")
            continue
        try:
            bundle = Bundle.load(folder, artifact.precision, check=False)
            logits = bundle.logits(sample.texts, tasks=[task.name], batch_size=bundle.safe_batch_size)
        except BundleError as error:
            yield Claim(name=name, status="failed", detail=str(error))
            continue
        value = float(sample.metric(sample.labels, decide(logits[task.name], task)))
        is_within = claimed.low <= value <= claimed.high
        yield Claim(
            name=name,
            status="checked" if is_within else "failed",
            detail=f"{value:.4f} on {len(sample.texts)} texts, claimed {claimed.low:.4f} to {claimed.high:.4f}",
        )


def _unchecked_claims(manifest: Manifest, artifact: Artifact) -> Iterator[Claim]:
    yield Claim(
        name=f"{artifact.file}: parity with the torch model",
        status="not checkable here",
        detail="the torch model is not part of a bundle; the run that made it has both",
    )
    missing = [feature for feature in artifact.cpu_features if feature not in cpu_features()]
    yield Claim(
        name=f"{artifact.file}: measured on a CPU like this one",
        status="not checkable here" if missing else "checked",
        detail=f"this CPU lacks {', '.join(missing)}" if missing else "all its instruction sets are here",
    )


def _claim(name: str, expected: object, find: Callable[[], object]) -> Claim:
    """Checked when what is found equals what is claimed; a file that cannot be read fails its claim."""
    try:
        found = find()
    except (OSError, ValueError, KeyError) as error:
        return Claim(name=name, status="failed", detail=f"cannot be read: {error}")
    if found == expected:
        return Claim(name=name, status="checked", detail=f"{found}")
    return Claim(name=name, status="failed", detail=f"claimed {expected}, found {found}")
