"""Replays every golden example of a bundle under the ONNX Runtime at hand and prints what it found as JSON.

Run by `export.target` in an environment that has another release than this one: nothing but serving is imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from serving.bundle import Bundle
from serving.certification import runtime_version
from serving.errors import BundleError, UserError
from serving.golden import largest_differences, read_golden, replay
from serving.manifest import read_manifest


def replay_all(folder: Path) -> dict[str, Any]:
    """Per artifact the largest logit difference of every task, and the error that a server would stop with.

    Returns:
        `runtime`, and `artifacts`: precision -> `differences` (task -> logits) and `error` (None where all is well).
    """
    manifest = read_manifest(folder)
    found = {artifact.precision: _replay_one(folder, artifact.precision) for artifact in manifest.artifacts}
    return {"runtime": runtime_version(), "artifacts": found}


def _replay_one(folder: Path, precision: str) -> dict[str, Any]:
    differences: dict[str, float] = {}
    try:
        bundle, golden = Bundle.load(folder, precision, check=False), read_golden(folder)
        differences = largest_differences(golden, bundle.model, bundle.artifact)
        replay(golden, bundle.model, bundle.artifact)
    except (BundleError, UserError) as error:
        return {"differences": differences, "error": str(error)}
    return {"differences": differences, "error": None}


def main() -> None:
    """`replaying BUNDLE`."""
    sys.stdout.write(json.dumps(replay_all(Path(sys.argv[1]))) + "\n")


if __name__ == "__main__":
    main()
