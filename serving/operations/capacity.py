"""How many lanes and threads a server starts with, and why."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from serving.host import ROOT, available_cpus, cpu_quota
from serving.operations.settings import ServerSettings


class Capacity(msgspec.Struct, frozen=True):
    """Lanes, the CPU threads of each, and where the numbers come from, in words."""

    lanes: int
    threads: int
    reason: str

    def __str__(self) -> str:
        """As it is printed at the start."""
        return f"{self.lanes} lane(s) of {self.threads} thread(s): {self.reason}"


def choose_capacity(settings: ServerSettings, root: Path = ROOT) -> Capacity:
    """The lanes of the settings, or as many as fit into this process's CPUs; one on a GPU.

    Args:
        settings: `lanes`, `threads` and `device` count.
        root: where the operating system's files are.
    """
    if settings.lanes is not None:
        return Capacity(settings.lanes, settings.threads, "as the settings say")
    if settings.device != "cpu":
        return Capacity(1, settings.threads, f"one compute lane on {settings.device}")
    lanes = max(1, available_cpus(root) // settings.threads)
    return Capacity(lanes, settings.threads, _describe_cpus(root))


def _describe_cpus(root: Path) -> str:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    limit = "no cgroup quota" if quota is None else f"the cgroup quota is {quota:g} CPU(s)"
    return f"the affinity allows {affinity} CPU(s), {limit}"
