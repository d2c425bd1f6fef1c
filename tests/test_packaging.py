"""What is installed: four packages, their data, and a Python that really runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from serving.doctor import OUR_DISTRIBUTION, OUR_NAMES, name_problems, runtime_problems

ROOT = Path(__file__).parents[1]
FIND_PYTHON = ROOT / "scripts" / "find-python"


def test_the_wheel_holds_exactly_the_four_packages_and_their_data(tmp_path: Path) -> None:
    """Catches a corpus, template or recipe that is missing once installed, and tests that are installed."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs", "build", "dist")
    shutil.copytree(ROOT, source, ignore=ignored)
    build = "import setuptools.build_meta as b; print(b.build_wheel('wheel'))"
    (source / "wheel").mkdir()
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wheel = next((source / "wheel").glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(OUR_NAMES)
    for wanted in (
        "compressor/data/corpora/supportdesk/train.jsonl",
        "compressor/data/corpora/supportdesk/DATACARD.md",
        "compressor/recipes/demo.yaml",
        "compressor/report/report.html.j2",
        "compressor/report/report.css",
        "compressor/report/report.js",
        "serving/http/page.html",
        *(f"{package}/py.typed" for package in OUR_NAMES),
    ):
        assert wanted in names


def test_nobody_else_owns_our_import_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches another distribution whose `cli` or `export` would be imported instead of ours."""
    assert name_problems() == []
    owners = {name: [OUR_DISTRIBUTION] for name in OUR_NAMES} | {"cli": [OUR_DISTRIBUTION, "other-tool"]}
    monkeypatch.setattr("serving.doctor.metadata.packages_distributions", lambda: owners)
    assert len(name_problems()) == 1
    assert "other-tool" in name_problems()[0]


def test_exactly_one_runtime_must_be_installed() -> None:
    """Catches the two ONNX Runtime distributions overwriting each other's files."""
    assert runtime_problems({"onnxruntime": "1", "onnxruntime-gpu": None}) == []
    assert "Keep one" in runtime_problems({"onnxruntime": "1", "onnxruntime-gpu": "1"})[0]
    assert "Install one" in runtime_problems({"onnxruntime": None})[0]


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """A folder whose python3 is there and fails, as version managers' shims do."""
    folder = tmp_path / "shims"
    folder.mkdir()
    for name in ("python3", "python3.11", "python"):
        path = folder / name
        path.write_text("#!/bin/sh\necho 'no version is set' >&2\nexit 127\n")
        path.chmod(0o755)
    return folder


def find_python(path: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHON"}
    return subprocess.run(
        [FIND_PYTHON], env={**clean, "PATH": path, **environment}, capture_output=True, text=True, check=False
    )


def test_a_python3_that_fails_is_passed_over(shim: Path, tmp_path: Path) -> None:
    """Catches `make` giving up because the first python3 on the path is a shim that does not run."""
    real = tmp_path / "real"
    real.mkdir()
    (real / "python3.12").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    found = find_python(f"{shim}:{real}:/usr/bin:/bin")
    assert found.returncode == 0, found.stderr
    assert not found.stdout.startswith(str(shim))
    assert subprocess.run([found.stdout.strip(), "-c", "import venv"], check=False).returncode == 0


def test_a_named_python_that_does_not_run_is_an_error_that_says_so(shim: Path) -> None:
    """Catches PYTHON=... that is silently replaced by another interpreter."""
    found = find_python(f"{shim}:/usr/bin:/bin", PYTHON=str(shim / "python3"))
    assert found.returncode == 1
    assert "make PYTHON=" in found.stderr
    assert found.stdout == ""
