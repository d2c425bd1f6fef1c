"""The files that put a server into production, checked as far as a machine without a container engine can."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from serving.operations.settings import ServerSettings

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
UNIT = ROOT / "deploy" / "compressor.service"
LAST = {"USER", "ENTRYPOINT", "CMD", "STOPSIGNAL", "HEALTHCHECK"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined, comments left out."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def test_the_image_runs_one_process_that_is_not_root_and_gets_the_signal() -> None:
    """A shell as the first process swallows SIGTERM: every rollout would then kill requests after the grace."""
    final = dict(instructions()[max(i for i, (name, _) in enumerate(instructions()) if name == "FROM") :])
    assert final.keys() >= LAST
    assert int(final["USER"].split(":")[0]) >= 1000
    assert json.loads(final["ENTRYPOINT"]) == ["compressor", "serve"]
    assert json.loads(final["CMD"])[0] == "/bundle"
    assert final["STOPSIGNAL"] == "SIGTERM"
    program = json.loads(final["HEALTHCHECK"].partition("CMD")[2])
    assert "/livez" in program[-1]
    compile(program[-1], "HEALTHCHECK", "exec")


def test_the_image_is_built_from_what_is_there() -> None:
    """A COPY of a folder that was renamed fails only where an engine is."""
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            *sources, _ = shlex.split(rest)
            assert all((ROOT / source).exists() for source in sources), rest
    copied = " ".join(rest for name, rest in instructions() if name == "COPY")
    assert not re.search(r"(^|\s)(\.|tests|benchmarks)(\s|$)", copied.replace(" ./", ""))


def test_the_unit_is_hardened_and_waits_for_the_drain() -> None:
    """Systemd kills what outlasts its patience: a shorter one than ours loses requests at every restart."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    defaults = ServerSettings()
    assert int(service["TimeoutStopSec"]) > defaults.grace_seconds + defaults.drain_seconds + 2
    assert service["ExecStart"].split()[1] == "serve"
    assert service["KillSignal"] == "SIGTERM"
    assert service["RestartPreventExitStatus"] == "2"
    for key, value in [("DynamicUser", "yes"), ("NoNewPrivileges", "yes"), ("ProtectSystem", "strict")]:
        assert service[key] == value
    assert service["CapabilityBoundingSet"] == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    """A misspelt protection is ignored by systemd with a line in a log that nobody reads."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/compressor/bin/compressor", shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert complaints == []


@pytest.mark.slow
def test_the_images_steps_install_a_server_without_torch(tmp_path: Path, bundle_folder: Path) -> None:
    """A dependency that only the training extra brings is missing in the image, and nowhere else."""
    source, target = tmp_path / "source", tmp_path / "compressor"
    for name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            *names, place = shlex.split(rest)
            for item in names:
                _copy(ROOT / item, source / item if len(names) > 1 else source / place)
    (run,) = [rest for name, rest in instructions() if name == "RUN"]
    script = run.replace("/opt/compressor", str(target)).replace("python -m venv", f"{sys.executable} -m venv", 1)
    subprocess.run(["sh", "-ec", script], cwd=source, check=True)
    shutil.rmtree(source)
    command = [str(target / "bin" / "compressor"), "serve", str(bundle_folder), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        url = _url(process)
        with urlopen(f"{url}/readyz", timeout=30) as reply:
            assert reply.status == 200
    finally:
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    end = time.monotonic() + 60
    while time.monotonic() < end:
        line = process.stderr.readline()
        if found := re.search(r"listening on (http://\S+)", line):
            return found[1]
        assert line or process.poll() is None
    raise AssertionError("not ready")
