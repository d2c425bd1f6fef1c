"""Loading a candidate's bundle under the ONNX Runtime that it is meant for, and what follows for its artifacts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

import serving
from export.bundle import assemble_bundle
from export.gates import Gate, decide_gate, unmeasured_gate
from export.measure import Measurements, fastest
from export.parity.rungs import Rung
from export.target.compatibility import Readable, readable_by
from export.target.environment import NotInstallableError, python_with
from serving.claims import TargetRuntime

TARGET_GATE = "target_runtime"
REPLAY_SECONDS = 300.0
PythonWith = Callable[[str], Path]


def certify_target(
    candidate_folder: Path, measurements: Measurements, runtime: str, *, find_python: PythonWith = python_with
) -> Measurements:
    """Replay the golden examples under another release; every artifact gets a gate per task.

    Where the release cannot be installed nothing is judged, and the target says that it is not verified.

    Args:
        candidate_folder: as it was measured.
        measurements: of it, with their golden examples.
        runtime: the release.
        find_python: gives an interpreter that has it.
    """
    reads = readable_by(runtime)
    try:
        found = _replay(find_python(runtime), candidate_folder, measurements, runtime)
    except NotInstallableError as error:
        return msgspec.structs.replace(measurements, target=_target(reads, False, f"not installable: {error}"))
    ladder = tuple(_judge(rung, found["artifacts"], measurements) for rung in measurements.ladder)
    passed = {rung.name: rung.passed for rung in ladder}
    artifacts = tuple(
        msgspec.structs.replace(artifact, passed=artifact.passed and passed[artifact.precision])
        for artifact in measurements.artifacts
    )
    return msgspec.structs.replace(
        measurements,
        ladder=ladder,
        artifacts=artifacts,
        default_artifact=fastest(artifacts, measurements.latency_seconds),
        target=_target(reads, True, f"{len(measurements.golden.texts)} golden examples per artifact"),
    )


def _target(reads: Readable, is_verified: bool, detail: str) -> TargetRuntime:
    return TargetRuntime(
        runtime=reads.runtime, opset=reads.opset, ir_version=reads.ir_version, is_verified=is_verified, detail=detail
    )


def _judge(rung: Rung, found: Mapping[str, Any], measurements: Measurements) -> Rung:
    """The rung with its gates under the other release; a rung that is no artifact is left alone."""
    measured = {artifact.precision: artifact for artifact in measurements.artifacts}
    if rung.name not in measured:
        return rung
    tasks, answer = measured[rung.name].parity, found.get(rung.name) or {"differences": {}, "error": "no answer"}
    gates = tuple(_gate(rung.name, task, answer, measured[rung.name].tolerance) for task in tasks)
    is_passed = rung.passed and all(gate.verdict == "passed" for gate in gates)
    return msgspec.structs.replace(rung, gates=(*rung.gates, *gates), passed=is_passed)


def _gate(precision: str, task: str, answer: Mapping[str, Any], limit: float) -> Gate:
    """A replay that ended with an error fails, however small the differences that it saw."""
    subject, difference = f"{precision} {task}", answer["differences"].get(task)
    if difference is None or (answer["error"] is not None and difference <= limit):
        reason = " ".join(str(answer["error"]).split())
        return unmeasured_gate(TARGET_GATE, subject, limit=limit, reason=reason)
    return decide_gate(TARGET_GATE, subject, difference, limit=limit)


def _replay(python: Path, candidate_folder: Path, measurements: Measurements, runtime: str) -> dict[str, Any]:
    """What `serving.replaying` prints there; NotInstallableError when the environment itself does not work."""
    with tempfile.TemporaryDirectory() as scratch:
        bundle, alone = Path(scratch) / "bundle", Path(scratch) / "alone"
        assemble_bundle(candidate_folder, measurements, bundle, name="target", version="0")
        source = Path(next(iter(serving.__path__)))
        shutil.copytree(source, alone / "serving", ignore=shutil.ignore_patterns("__pycache__"))
        answer = _ask(python, alone, bundle)
    if not f"{answer['runtime']}.".startswith(f"onnxruntime {runtime}."):
        raise NotInstallableError(f"the environment made for it holds {answer['runtime'] or 'no runtime'}")
    return answer


def _ask(python: Path, alone: Path, bundle: Path) -> dict[str, Any]:
    """Run the replay in a folder that holds nothing but our serving package."""
    try:
        done = subprocess.run(
            [str(python), "-m", "serving.replaying", str(bundle)],
            cwd=alone,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            capture_output=True,
            text=True,
            timeout=REPLAY_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstallableError(f"the replay did not finish within {REPLAY_SECONDS:.0f} s") from error
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise NotInstallableError(f"the environment made for it does not work: {last}")
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise NotInstallableError("the environment made for it gave no answer") from error
    return answer
