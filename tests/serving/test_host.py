"""Facts about the machine, read from made-up system folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from serving import host


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


V2_NESTED = {
    "proc/self/cgroup": "0::/pod/container\n",
    "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/pod/container/cpu.max": "400000 100000\n",
}
V2_NAMESPACE = {"proc/self/cgroup": "0::/../other\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}
V2_FREE = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}
V1 = {
    "proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/docker/abc\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
}
V1_FREE = V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [(V2_NESTED, 1.5), (V2_NAMESPACE, 0.5), (V2_FREE, None), (V1, 2.5), (V1_FREE, None), ({}, None)],
    ids=["v2 parent is tighter", "v2 namespace", "v2 free", "v1", "v1 free", "no cgroup"],
)
def test_the_tightest_quota_counts_whatever_the_cgroup_version(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    """A missed quota starts a thread per host CPU in a small container, and every period is throttled."""
    assert host.cpu_quota(_write(tmp_path, files)) == quota


@pytest.mark.parametrize(("affinity", "files", "cpus"), [(8, V1, 2), (1, V1, 1), (8, V2_NAMESPACE, 1), (8, {}, 8)])
def test_available_cpus_respect_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, affinity: int, files: dict[str, str], cpus: int
) -> None:
    """Half a CPU must still give one thread, and `taskset` must count as much as the quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)))
    assert host.available_cpus(_write(tmp_path, files)) == cpus


def test_cpu_features_are_whole_flags_of_x86_and_arm(tmp_path: Path) -> None:
    """'avx512f' inside 'avx512fp16' must not count: the bundle would claim kernels this CPU lacks."""
    x86 = "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni avx512fp16\n\nflags\t\t: amx_int8\n"
    arm = "processor\t: 0\nFeatures\t: fp asimd asimddp\n"
    assert host.cpu_features(_write(tmp_path / "x86", {"proc/cpuinfo": x86})) == ("avx2", "avx512_vnni")
    assert host.cpu_model(tmp_path / "x86") == "Some CPU"
    assert host.cpu_features(_write(tmp_path / "arm", {"proc/cpuinfo": arm})) == ("asimd", "asimddp")
    assert host.cpu_features(tmp_path / "none") == ()
    assert host.cpu_model(tmp_path / "none")


def test_the_description_of_this_host_is_json_with_versions() -> None:
    """A report whose environment cannot be written is lost at the very end of a run."""
    facts = json.loads(json.dumps(host.describe_host()))
    assert facts["versions"]["onnxruntime"]
    assert facts["available_cpus"] >= 1
    assert facts["memory_bytes"] > 0


@pytest.mark.parametrize(
    ("features", "saturates"),
    [
        (("avx2", "fma"), True),
        (("avx2", "avx512f", "avx512bw"), True),
        (("avx2", "avx512_vnni"), False),
        (("avx2", "avx_vnni"), False),
        (("avx2", "amx_int8"), False),
        (("asimd",), False),
        ((), False),
    ],
)
def test_cpus_whose_8_bit_products_saturate_are_known(features: tuple[str, ...], saturates: bool) -> None:
    """int8 weights of 8 bits silently change answers on them."""
    assert host.saturates_int8(features) is saturates
