"""Environments for other releases: made once, never half made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from export.target.environment import NotInstallableError, cache_folder, install_with_pip, packages_for, python_with


class _Installer:
    """Counts its calls; fails while `reason` is set, after it has written half an environment."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason
        self.asked: list[list[str]] = []

    def __call__(self, folder: Path, packages: Sequence[str]) -> None:
        self.asked.append(list(packages))
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").write_text("", encoding="utf-8")
        if self.reason:
            raise NotInstallableError(self.reason)


def test_an_environment_is_made_once_per_release(tmp_path: Path) -> None:
    """Every run would install it again."""
    install = _Installer()
    first = python_with("1.17.3", root=tmp_path, install=install)
    assert first == python_with("1.17.3", root=tmp_path, install=install)
    assert first.is_file()
    assert len(install.asked) == 1
    assert python_with("1.18.0", root=tmp_path, install=install) != first
    assert len(install.asked) == 2


def test_half_an_environment_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    """Its next use would fail without saying why."""
    with pytest.raises(NotInstallableError, match="no network"):
        python_with("1.17.3", root=tmp_path, install=_Installer("no network"))
    assert list(tmp_path.iterdir()) == []
    assert python_with("1.17.3", root=tmp_path, install=_Installer()).is_file()


@pytest.mark.parametrize(
    ("runtime", "wanted", "numpy"),
    [
        ("1.17.3", "onnxruntime==1.17.3", "numpy<2"),
        ("1.17", "onnxruntime==1.17.*", "numpy<2"),
        ("1.19.0", "onnxruntime==1.19.0", "numpy>=2"),
        ("1.9.0", "onnxruntime==1.9.0", "numpy<2"),
    ],
)
def test_the_packages_are_those_that_the_release_works_with(runtime: str, wanted: str, numpy: str) -> None:
    """Releases before 1.19 were built against the first numpy and fail to import with the second."""
    packages = packages_for(runtime)
    assert packages[:2] == [wanted, numpy]
    assert {package.partition("==")[0] for package in packages[2:]} == {"tokenizers", "msgspec"}


def test_the_cache_lies_where_the_user_keeps_such_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache inside a run folder would be made for every run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "compressor-toolchain" / "runtimes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().is_relative_to(Path.home())


def _fake_venv(script: str) -> object:
    def create(folder: Path, with_pip: bool) -> None:
        assert with_pip
        (folder / "bin").mkdir(parents=True)
        python = folder / "bin" / "python"
        python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        python.chmod(0o755)

    return create


def test_pips_last_error_is_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """'exit status 1' sends the user to read a log that is gone."""
    script = "echo 'ERROR: first' >&2; echo 'ERROR: No matching distribution found for onnxruntime==9.9.9' >&2; exit 1"
    monkeypatch.setattr("venv.create", _fake_venv(script))
    with pytest.raises(NotInstallableError, match=r"^ERROR: No matching distribution found"):
        install_with_pip(tmp_path / "environment", ["onnxruntime==9.9.9"])


def test_an_installer_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable index would hold the run for ever."""
    monkeypatch.setattr("venv.create", _fake_venv("exec sleep 30"))
    monkeypatch.setattr("export.target.environment.INSTALL_SECONDS", 0.2)
    with pytest.raises(NotInstallableError, match="did not finish within"):
        install_with_pip(tmp_path / "environment", [])
