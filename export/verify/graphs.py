"""Claims that a graph's own file answers: size, opset, IR version, int8 operators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from export.precision import count_quantised_operators, ir_version_of, opset_of
from export.verify.claim import Claim, decided, equal, failed
from serving.manifest import Artifact, Manifest


def graph_claims(folder: Path, artifact: Artifact) -> Iterator[Claim]:
    """What one file says of itself."""
    path, name = folder / artifact.file, artifact.file
    yield equal(f"{name}: bytes", artifact.bytes, lambda: path.stat().st_size)
    facts = {
        "opset": (artifact.opset, lambda: opset_of(path)),
        "IR version": (artifact.ir_version, lambda: ir_version_of(path)),
        "int8 operators": (artifact.quantised_nodes, lambda: sum(count_quantised_operators(path).values())),
    }
    for fact, (claimed, find) in facts.items():
        try:
            yield equal(f"{name}: {fact}", claimed, find)
        except (DecodeError, StopIteration) as error:
            yield failed(f"{name}: {fact}", f"the file is damaged: {error}")


def target_claims(manifest: Manifest) -> Iterator[Claim]:
    """A bundle made for an older runtime holds nothing that this runtime cannot read."""
    if (target := manifest.target) is None:
        return
    for artifact in manifest.artifacts:
        fits = artifact.opset <= target.opset and artifact.ir_version <= target.ir_version
        detail = (
            f"opset {artifact.opset} and IR version {artifact.ir_version}, "
            f"readable are {target.opset} and {target.ir_version}"
        )
        yield decided(f"{artifact.file}: readable by onnxruntime {target.runtime}", detail, holds=fits)
