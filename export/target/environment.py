"""An environment that holds one release of ONNX Runtime and nothing that serving does not need; made once, kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from export.target.compatibility import release_of

INSTALL_SECONDS = 300.0
READY_FILE = "ready"
FIRST_WITH_NUMPY_2 = (1, 19)
Install = Callable[[Path, Sequence[str]], None]


class NotInstallableError(Exception):
    """The release cannot be installed here; the message is one line of the reason."""


def python_with(runtime: str, *, root: Path | None = None, install: Install | None = None) -> Path:
    """The interpreter of an environment with this release, made on the first call.

    Args:
        runtime: the release, for example 1.17.3.
        root: where environments are kept; None for the user's cache folder.
        install: makes an environment with the given packages; None for venv and pip.

    Raises:
        NotInstallableError: there is no such release for this Python and machine, no network, or not enough time.
    """
    folder = (root or cache_folder()) / f"onnxruntime-{runtime}-py{sys.version_info[0]}.{sys.version_info[1]}"
    if not (folder / READY_FILE).is_file():
        aside = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            (install or install_with_pip)(aside, packages_for(runtime))
            (aside / READY_FILE).touch()
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder / "bin" / "python"


def packages_for(runtime: str) -> list[str]:
    """What serving needs, with the tokenizer library that is installed here: it decides the ids."""
    release = release_of(runtime)
    wanted = runtime if runtime.count(".") == 2 else f"{runtime}.*"
    numpy = "numpy>=2" if release >= FIRST_WITH_NUMPY_2 else "numpy<2"
    same = [f"{name}=={metadata.version(name)}" for name in ("tokenizers", "msgspec")]
    return [f"onnxruntime=={wanted}", numpy, *same]


def cache_folder() -> Path:
    """Where environments are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "compressor-toolchain" / "runtimes"


def install_with_pip(folder: Path, packages: Sequence[str]) -> None:
    """Make a virtual environment and install packages; NotInstallableError with pip's last words."""
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--only-binary=:all:", *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotInstallableError(f"pip did not finish within {INSTALL_SECONDS:.0f} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstallableError(lines[-1] if lines else f"pip ended with {done.returncode}")
