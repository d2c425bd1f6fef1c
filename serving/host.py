"""Facts about this machine: what a measurement must be read with, and how many threads may run.

Everything comes from the operating system's own files, so nothing is installed for it. Functions that
read such files take the root folder as an argument.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path("/")

CPU_FEATURES = (
    "sse4_1",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
"""Instruction sets that decide which matrix kernels run, by their names in /proc/cpuinfo."""


def available_cpus(root: Path = ROOT) -> int:
    """CPUs this process may use: the smaller of its affinity and its whole cgroup quota, at least 1.

    A quota of 1.5 counts as 1: a second busy thread would be stopped for a part of every period.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """The tightest cgroup limit (v1 or v2) above this process, in CPUs; None without one."""
    quotas = (_quota_of(folder) for folder in _cgroup_folders(root))
    return min((quota for quota in quotas if quota is not None), default=None)


def cpu_model(root: Path = ROOT) -> str:
    """The processor's name as the system gives it; never empty."""
    return _cpuinfo(root).get("model name") or platform.processor() or platform.machine() or "unknown"


def cpu_features(root: Path = ROOT) -> tuple[str, ...]:
    """The members of `CPU_FEATURES` that this CPU has; empty where the system does not tell."""
    facts = _cpuinfo(root)
    flags = set(f"{facts.get('flags', '')} {facts.get('Features', '')}".split())
    return tuple(feature for feature in CPU_FEATURES if feature in flags)


def saturates_int8(features: Sequence[str]) -> bool:
    """Whether sums of 8-bit products overflow 16 bits on this CPU: x86 without VNNI or AMX.

    ONNX Runtime multiplies uint8 activations by int8 weights there with an instruction that saturates; weights of 7
    bits cannot reach the limit. An unknown CPU (no features) is taken for one that does not saturate.
    """
    found = set(features)
    return bool({"sse4_1", "avx2"} & found) and not {"avx512_vnni", "avx_vnni", "amx_int8"} & found


def describe_host(root: Path = ROOT) -> dict[str, Any]:
    """What stands beside every measurement: CPU, limits, memory, load and versions, ready for JSON."""
    return {
        "cpu_model": cpu_model(root),
        "cpu_features": list(cpu_features(root)),
        "cpus": os.cpu_count() or 1,
        "available_cpus": available_cpus(root),
        "cpu_quota": cpu_quota(root),
        "memory_bytes": _memory_bytes(),
        "platform": platform.platform(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            "onnxruntime": _version("onnxruntime") or _version("onnxruntime-gpu"),
            "numpy": _version("numpy"),
            "tokenizers": _version("tokenizers"),
        },
    }


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's facts of /proc/cpuinfo; empty on systems without that file."""
    facts: dict[str, str] = {}
    try:
        with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, colon, value = line.partition(":")
                if not colon:
                    break
                facts[key.strip()] = value.strip()
    except OSError:
        return {}
    return facts


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """The folders of this process's CPU cgroup and of all its parents, v1 and v2."""
    for line in (_read(root / "proc/self/cgroup") or "0::/\n1:cpu:/").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = PurePosixPath(path)
        for part in (group, *group.parents):
            if ".." not in part.parts:  # a namespace's way of naming what lies above its root
                yield base / str(part).lstrip("/")


def _quota_of(folder: Path) -> float | None:
    """One cgroup folder's own limit in CPUs; None when it sets none."""
    limit = _read(folder / "cpu.max")
    if limit is None:
        quota = _read(folder / "cpu.cfs_quota_us")
        period = _read(folder / "cpu.cfs_period_us")
        limit = f"{quota or 'max'} {period or ''}"
    quota, _, period = limit.strip().partition(" ")
    if quota.strip() in ("max", "-1") or not period.strip():
        return None
    return int(quota) / int(period)


def _memory_bytes() -> int | None:
    """Physical memory, in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
