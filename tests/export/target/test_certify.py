"""A bundle under another release of ONNX Runtime: judged where it can be installed, and said so where it cannot."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import pytest

from export.candidate import Candidate
from export.measure import Measurements
from export.target.certify import TARGET_GATE, certify_target
from export.target.environment import NotInstallableError

HERE = metadata.version("onnxruntime")
FindPython = Callable[[str], Path]


@pytest.fixture
def python_that(tmp_path: Path) -> Callable[[str], FindPython]:
    """`python_that(script)`: an environment whose interpreter is a shell script."""

    def make(script: str) -> FindPython:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
        return lambda runtime: path

    return make


@pytest.fixture
def python_that_says(python_that: Callable[[str], FindPython]) -> Callable[..., FindPython]:
    """`python_that_says(precision=(difference, error))`: an environment with release 1.17.3 and these answers."""

    def make(**answers: tuple[float | None, str | None]) -> FindPython:
        found = {
            name: {"differences": {} if value is None else {"intent": value}, "error": error}
            for name, (value, error) in answers.items()
        }
        said = json.dumps({"runtime": "onnxruntime 1.17.3", "artifacts": found})
        return python_that(f"printf '%s\\n' {shlex.quote(said)}")

    return make


def _gates(measurements: Measurements) -> dict[str, Any]:
    return {gate.subject: gate for gate in measurements.gates if gate.name == TARGET_GATE}


def _passed(measurements: Measurements) -> dict[str, bool]:
    return {artifact.precision: artifact.passed for artifact in measurements.artifacts}


def test_every_artifact_is_replayed_in_the_other_environment(
    candidate: tuple[Path, Candidate], measurements: Measurements, python_that: Callable[[str], FindPython]
) -> None:
    """The whole way: another process, nothing but serving beside it, all golden examples of all artifacts."""
    find = python_that(f'exec {sys.executable} "$@"')
    found = certify_target(candidate[0], measurements, HERE, find_python=find)
    assert found.target is not None
    assert (found.target.is_verified, found.target.runtime) == (True, HERE)
    assert f"{len(measurements.golden.texts)} golden examples" in found.target.detail
    assert {subject: gate.verdict for subject, gate in _gates(found).items()} == {
        "fp32 intent": "passed",
        "int8 intent": "passed",
    }
    assert _passed(found) == _passed(measurements)
    assert found.default_artifact == measurements.default_artifact


def test_a_release_that_cannot_be_installed_is_said_and_judges_nothing(
    candidate: tuple[Path, Candidate], measurements: Measurements
) -> None:
    """A check that was not made must neither pass nor fail."""

    def find(runtime: str) -> Path:
        raise NotInstallableError(f"no {runtime} for this machine")

    found = certify_target(candidate[0], measurements, "1.17.3", find_python=find)
    assert found.target is not None
    assert not found.target.is_verified
    assert found.target.detail == "not installable: no 1.17.3 for this machine"
    assert (found.target.opset, found.target.ir_version) == (20, 9)
    assert not _gates(found)
    assert found.default_artifact == measurements.default_artifact


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'ImportError: numpy.core' >&2; exit 1", "does not work: ImportError: numpy.core"),
        ("exit 3", "does not work: no message"),
        ("""echo '{"runtime": "onnxruntime 1.17.31", "artifacts": {}}'""", "holds onnxruntime 1.17.31"),
        ("""echo '{"runtime": "", "artifacts": {}}'""", "holds no runtime"),
        ("echo hello", "gave no answer"),
        ("true", "gave no answer"),
    ],
)
def test_an_environment_that_is_not_what_was_asked_for_verifies_nothing(
    candidate: tuple[Path, Candidate],
    measurements: Measurements,
    python_that: Callable[[str], FindPython],
    script: str,
    reason: str,
) -> None:
    """The bundle would be called verified under a release that it never met."""
    found = certify_target(candidate[0], measurements, "1.17.3", find_python=python_that(script))
    assert found.target is not None
    assert not found.target.is_verified
    assert reason in found.target.detail


@pytest.mark.parametrize(
    ("answer", "measured"),
    [((5.0, "golden example 3 gives other logits"), 5.0), ((None, "cannot be loaded: Unsupported\n opset"), None)],
)
def test_an_artifact_that_fails_there_is_not_served(
    candidate: tuple[Path, Candidate],
    measurements: Measurements,
    python_that_says: Callable[..., FindPython],
    answer: tuple[float | None, str],
    measured: float | None,
) -> None:
    """The fastest artifact may use an operator that the release does not have."""
    find = python_that_says(fp32=(0.0, None), int8=answer)
    found = certify_target(candidate[0], measurements, "1.17.3", find_python=find)
    gate = _gates(found)["int8 intent"]
    assert (gate.verdict, gate.measured) == ("failed", measured)
    if measured is None:
        assert gate.reason == "cannot be loaded: Unsupported opset"
    assert _passed(found) == {"fp32": True, "int8": False}
    assert found.default_artifact == "fp32"


def test_an_error_fails_even_where_the_logits_agree(
    candidate: tuple[Path, Candidate], measurements: Measurements, python_that_says: Callable[..., FindPython]
) -> None:
    """Another tokenizer library gives other ids, and the same logits for texts without a word of the vocabulary."""
    find = python_that_says(fp32=(0.0, "golden example 0 is tokenised into other ids"), int8=(0.0, None))
    found = certify_target(candidate[0], measurements, "1.17.3", find_python=find)
    assert _gates(found)["fp32 intent"].verdict == "failed"
    assert not _passed(found)["fp32"]


def test_an_artifact_without_an_answer_fails(
    candidate: tuple[Path, Candidate], measurements: Measurements, python_that_says: Callable[..., FindPython]
) -> None:
    """What was not replayed has not passed."""
    found = certify_target(candidate[0], measurements, "1.17.3", find_python=python_that_says(fp32=(0.0, None)))
    assert _gates(found)["int8 intent"].verdict == "failed"


def test_an_artifact_that_failed_before_does_not_pass_there(
    candidate: tuple[Path, Candidate], measurements: Measurements, python_that_says: Callable[..., FindPython]
) -> None:
    """A replay that repeats a wrong graph's logits proves nothing about the graph."""
    ladder = tuple(msgspec.structs.replace(r, passed=r.passed and r.name != "int8") for r in measurements.ladder)
    artifacts = tuple(
        msgspec.structs.replace(a, passed=a.passed and a.precision != "int8") for a in measurements.artifacts
    )
    before = msgspec.structs.replace(measurements, ladder=ladder, artifacts=artifacts)
    find = python_that_says(fp32=(0.0, None), int8=(0.0, None))
    found = certify_target(candidate[0], before, "1.17.3", find_python=find)
    assert not _passed(found)["int8"]


def test_a_replay_that_hangs_verifies_nothing(
    candidate: tuple[Path, Candidate],
    measurements: Measurements,
    python_that: Callable[[str], FindPython],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run must end."""
    monkeypatch.setattr("export.target.certify.REPLAY_SECONDS", 0.2)
    found = certify_target(candidate[0], measurements, "1.17.3", find_python=python_that("exec sleep 30"))
    assert found.target is not None
    assert "did not finish within" in found.target.detail
