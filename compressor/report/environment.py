"""The machine and the programs of a run, and how its models were trained, as tables of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.report.curves import trainings
from compressor.report.table import Table
from compressor.report.wording import MISSING, compact, count, duration

_NAMES = {
    "cpu_model": "CPU",
    "cpu_features": "instruction sets",
    "cpus": "CPUs of the machine",
    "available_cpus": "CPUs for this run",
    "cpu_quota": "CPU quota",
    "memory_bytes": "memory",
    "load_average": "load average",
}


def environment_table(report: Mapping[str, Any]) -> Table:
    """What is known of the machine, one fact per row."""
    facts = {key: value for key, value in (report.get("environment") or {}).items() if key != "versions"}
    rows = tuple(
        (_NAMES.get(key, key.replace("_", " ")), _fact(key, value)) for key, value in facts.items() if value is not None
    )
    return Table(("fact", "value"), rows, text_columns=2)


def versions_table(report: Mapping[str, Any]) -> Table:
    """Programs and their versions."""
    versions = (report.get("environment") or {}).get("versions") or {}
    return Table(("program", "version"), tuple((name, str(v)) for name, v in versions.items()), text_columns=2)


def trainings_table(report: Mapping[str, Any]) -> Table | None:
    """How long and on what every model was trained."""
    rows = tuple(
        (
            training.name,
            facts.get("kept") or MISSING,
            facts.get("device") or MISSING,
            facts.get("dtype") or MISSING,
            count(facts.get("threads")),
            _steps(facts),
            duration(facts.get("seconds")),
        )
        for training in trainings(report)
        for facts in [training.facts]
    )
    columns = ("model", "weights kept", "device", "dtype", "threads", "steps", "time")
    return Table(columns, rows, text_columns=4) if rows else None


def _steps(facts: Mapping[str, Any]) -> str:
    done, planned = facts.get("steps"), facts.get("planned_steps")
    stopped_early = done is not None and planned is not None and done < planned
    return f"{count(done)} of {count(planned)}" if stopped_early else count(done)


def _fact(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value / 2**30:.1f} GiB" if key.endswith("_bytes") else compact(value) if value < 1e6 else count(value)
    if isinstance(value, list | tuple):
        return ", ".join(_fact("", item) for item in value) or MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_fact('', item)}" for name, item in value.items()) or MISSING
    return str(value)
