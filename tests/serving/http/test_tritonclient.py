"""NVIDIA's client for the Open Inference Protocol, in an environment of its own, against a real server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.bundle import Bundle
from serving.engine.dummy import DummyEngine
from tests.serving.http.conftest import RunningServer

CHECK = Path(__file__).with_name("triton_check.py")
TEXTS = ["refund", "bröken thanks", "please"]


@pytest.fixture(scope="session")
def client_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with `tritonclient[http]`, which shares nothing with ours; skipped where pip cannot get it."""
    folder = tmp_path_factory.mktemp("triton")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "tritonclient[http]"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install tritonclient here: {done.stderr[-300:]}")
    return python


@pytest.mark.slow
def test_tritonclient_reads_our_metadata_and_answers(
    client_python: Path, run_server: Callable[..., RunningServer], bundle: Bundle
) -> None:
    """Our own reading of the specification could be wrong twice, in the code and in its tests."""
    server = run_server(DummyEngine(bundle))
    command = [str(client_python), str(CHECK), f"127.0.0.1:{server.port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().split(",") == [answer["intent"]["label"] for answer in bundle.predict(TEXTS)]
