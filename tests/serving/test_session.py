"""Sessions: what was asked for, or an error that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import BundleError, MissingExtraError, UserError
from serving.session import create_session, providers_of

TELEMETRY = "ORT_DISABLE_TELEMETRY"


def test_a_session_has_the_threads_asked_for_and_none_that_spin(bundle_folder: Path) -> None:
    """Two spinning threads cost 1.7 times the CPU of the same answers."""
    session = create_session(bundle_folder / "model.fp32.onnx", threads=2)
    options = session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("plans_memory", [False, True])
def test_a_session_keeps_freed_memory_and_plans_only_when_asked(bundle_folder: Path, plans_memory: bool) -> None:
    """A plan for each shape is memory for each shape (decision 0013)."""
    options = create_session(bundle_folder / "model.fp32.onnx", plans_memory=plans_memory).get_session_options()
    assert options.enable_cpu_mem_arena is True
    assert options.enable_mem_pattern is plans_memory


def test_a_gpu_is_never_replaced_by_the_cpu_in_silence(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself only warns; the figures of a 'GPU' row would then be the CPU's."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match=r"no CUDAExecutionProvider.*compressor-toolchain\[gpu\]"):
        create_session(bundle_folder / "model.fp32.onnx", providers=providers_of("cuda"))


def test_a_provider_that_is_listed_but_does_not_load_is_an_error(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu without its CUDA libraries lists the provider and then computes on the CPU."""
    import onnxruntime

    class FallenBack(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, path: str, sess_options: object, providers: list[str], enable_fallback: int) -> None:
            super().__init__(path, sess_options=sess_options, providers=["CPUExecutionProvider"])

    both = list(providers_of("cuda"))
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: both)
    monkeypatch.setattr("onnxruntime.InferenceSession", FallenBack)
    with pytest.raises(UserError, match="fell back to CPUExecutionProvider"):
        create_session(bundle_folder / "model.fp32.onnx", providers=both)


@pytest.mark.parametrize("content", [None, b"", b"no graph at all"])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes | None) -> None:
    """The runtime's own exceptions are no reason for a traceback."""
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx cannot be loaded"):
        create_session(path)


def test_unknown_devices_and_no_threads_are_refused(bundle_folder: Path) -> None:
    """Zero threads would mean 'all of them' to ONNX Runtime."""
    with pytest.raises(UserError, match=r"no device 'tpu'\. Choose one of: cpu, cuda"):
        providers_of("tpu")
    with pytest.raises(UserError, match="at least 1"):
        create_session(bundle_folder / "model.fp32.onnx", threads=0)


def test_a_missing_runtime_is_an_error_with_the_install_line(
    bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime is an extra on purpose; a host without it must read which one to take."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*compressor-toolchain\[cpu\]"):
        create_session(bundle_folder / "model.fp32.onnx")


def test_serving_imports_neither_torch_nor_transformers() -> None:
    """One stray import adds gigabytes and seconds to every serving host."""
    code = (
        "import sys, serving.operations.server, serving.bundle, serving.host\n"
        "heavy = {'torch', 'transformers', 'onnx', 'sklearn', 'compressor', 'export'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("package", ["serving.session", "export.optimise", "compressor.recipe", "cli.main"])
def test_onnx_runtime_is_told_to_report_to_nobody_before_it_is_loaded(package: str) -> None:
    """Since 1.29 it sends the names and hashes of models to its maker, unless this is set before it starts."""
    program = f"""
import os, sys

def watch(event, arguments):
    if event == "import" and arguments[0] == "onnxruntime":
        print(os.environ.get("{TELEMETRY}"))

sys.addaudithook(watch)
import {package}
import onnxruntime
"""
    assert _run(program, {}).split() == ["1"]
    assert _run(program, {TELEMETRY: "yes"}).split() == ["yes"]  # the user's own setting is left alone


def test_a_loaded_bundle_leaves_no_trace_in_the_home_folder(bundle_folder: Path, tmp_path: Path) -> None:
    """A device id in the user's cache is how those reports would be told apart."""
    (home := tmp_path / "home").mkdir()
    program = f"from serving.bundle import Bundle; print(len(Bundle.load({str(bundle_folder)!r}).predict(['hi'])))"
    assert _run(program, {"HOME": str(home)}) == "1"
    assert list(home.rglob("*")) == []


def _run(program: str, environment: dict[str, str]) -> str:
    """What a program prints in a process that knows nothing of test runs, in which the library is silent anyway."""
    kept = {name: value for name, value in os.environ.items() if name not in (TELEMETRY, "CI", "XDG_CACHE_HOME")}
    done = subprocess.run([sys.executable, "-c", program], env=kept | environment, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()
