"""Which opsets and IR versions an ONNX Runtime reads.

Source: ONNX Runtime's own table, https://onnxruntime.ai/docs/reference/compatibility.html ("ONNX opset support"), down
to 1.8, the first that reads opset 14. The page promises that newer releases read what older ones do, so a release that
is not in the table is held to the newest row below it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving.errors import UserError

READS: dict[tuple[int, int], tuple[int, int]] = {
    (1, 8): (14, 7),
    (1, 9): (15, 8),
    (1, 10): (15, 8),
    (1, 11): (16, 8),
    (1, 12): (17, 8),
    (1, 13): (17, 8),
    (1, 14): (18, 8),
    (1, 15): (19, 8),
    (1, 16): (19, 9),
    (1, 17): (20, 9),
    (1, 18): (21, 10),
    (1, 19): (21, 10),
    (1, 20): (21, 10),
}
"""Release -> highest opset of the default domain, highest IR version."""

_VERSION = re.compile(r"(\d+)\.(\d+)(\.\d+)?")


@dataclass(frozen=True)
class Readable:
    """What a runtime reads at most.

    Attributes:
        runtime: the release, as it was given.
        opset: of the default domain.
        ir_version: of the file.
    """

    runtime: str
    opset: int
    ir_version: int


@dataclass(frozen=True)
class Target:
    """What a bundle is meant for.

    Attributes:
        opset: of the default domain; None to have it chosen.
        runtime: release of ONNX Runtime; None for none in particular.
    """

    opset: int | None = None
    runtime: str | None = None


def release_of(runtime: str) -> tuple[int, int]:
    """Major and minor number of a release such as 1.17.3 or 1.17; UserError for anything else."""
    found = _VERSION.fullmatch(runtime)
    if found is None:
        raise UserError(f"'{runtime}' is no release of ONNX Runtime. Give its number, for example 1.17.3.")
    return int(found[1]), int(found[2])


def readable_by(runtime: str) -> Readable:
    """What a release reads; UserError for releases before the first of the table."""
    release = release_of(runtime)
    rows = [row for row in READS if row <= release]
    if not rows:
        first = ".".join(map(str, min(READS)))
        raise UserError(
            f"ONNX Runtime {runtime} is older than {first}, the first that reads our graphs. Give that or a later one."
        )
    opset, ir_version = READS[max(rows)]
    return Readable(runtime, opset, ir_version)


def choose_opset(runtime: str | None, opset: int | None, default: int) -> int:
    """The opset to export: the one asked for, else the default as far as the runtime reads it.

    Args:
        runtime: the release that the bundle is for; None for none in particular.
        opset: asked for; None to have it chosen.
        default: the one that is tested best.

    Raises:
        UserError: the runtime does not read the opset that was asked for.
    """
    if runtime is None:
        return opset or default
    reads = readable_by(runtime)
    if opset is not None and opset > reads.opset:
        raise UserError(
            f"opset {opset} was asked for, but ONNX Runtime {runtime} reads at most {reads.opset}. "
            f"Set export.opset to {reads.opset} or lower, or leave it out."
        )
    return opset or min(default, reads.opset)
