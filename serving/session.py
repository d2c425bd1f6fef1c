"""ONNX Runtime sessions: with the threads and the provider that were asked for, or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from serving.errors import BundleError, MissingExtraError, UserError

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""Execution providers of each device; on a GPU the CPU computes shapes and what has no GPU kernel."""


def providers_of(device: str) -> tuple[str, ...]:
    """The execution providers of a device; UserError names the choices."""
    if device not in PROVIDERS:
        raise UserError(f"no device '{device}'. Choose one of: {', '.join(PROVIDERS)}")
    return PROVIDERS[device]


def create_session(
    path: Path, threads: int = 1, providers: Sequence[str] = PROVIDERS["cpu"], *, plans_memory: bool = False
) -> onnxruntime.InferenceSession:
    """Load a graph for inference.

    Threads do not spin while they wait: spinning gains one caller little and costs all others their CPU. Memory is
    kept in an arena.

    Args:
        path: an ONNX file.
        threads: that one call of the session computes with, at least 1.
        providers: wanted execution providers, the first one foremost.
        plans_memory: remember for each shape of the inputs where its tensors lie. Calls are some percent faster, and
            memory grows with the number of shapes: for callers that know theirs to be few.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        UserError: there is no such provider here; nothing falls back to another in silence.
        BundleError: the file is not a graph that this ONNX Runtime can run.
    """
    if threads < 1:
        raise UserError(f"threads is {threads}; give the number of threads for one call, at least 1")
    try:
        import onnxruntime as runtime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu") from error
    _check_available(runtime, providers)
    try:
        session = runtime.InferenceSession(
            str(path),
            sess_options=_options(runtime, threads, plans_memory=plans_memory),
            providers=list(providers),
            enable_fallback=0,  # else it prints to stdout and tries again
        )
    except _load_errors() as error:
        raise BundleError(f"{path} cannot be loaded: {error}. Export the bundle again.") from error
    if (given := session.get_providers()[: len(providers)]) != list(providers):
        raise UserError(
            f"asked for {providers[0]}, but ONNX Runtime fell back to {given[0]}: "
            "the libraries of the first did not load. Run 'compressor doctor', or serve on the CPU."
        )
    session.disable_fallback()
    return session


def _options(runtime: ModuleType, threads: int, *, plans_memory: bool) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = plans_memory
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # for serving.placement
    return options


def _check_available(runtime: ModuleType, providers: Sequence[str]) -> None:
    available = runtime.get_available_providers()
    if missing := [name for name in providers if name not in available]:
        advice = (
            "Replace the CPU runtime: pip uninstall onnxruntime, then pip install 'compressor-toolchain[gpu]'"
            if missing[0] == "CUDAExecutionProvider"
            else f"Choose among: {', '.join(available)}"
        )
        raise UserError(f"this ONNX Runtime has no {missing[0]}. {advice}")


def _load_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a file it cannot make a session of."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        UnicodeDecodeError,  # the message quotes the damaged bytes
    )
