"""All latencies as tables: what a call took, where its time went, and what spoke against the measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report.table import Table
from compressor.report.wording import MISSING, count, is_known, milliseconds

TOO_FEW = "too few samples"
_VARIANTS = {"bundle": "student (bundle)"}

Report = Mapping[str, Any]


def latency_table(report: Report) -> Table | None:
    """All measurements: the model's part of a call."""
    rows = tuple(
        (
            *_named(m),
            milliseconds(m.get("p50_ms")),
            _percentile(m.get("p95_ms")),
            _percentile(m.get("p99_ms")),
            count(m.get("samples")),
            count(m.get("texts_per_second")),
            _ratio(m.get("speed_up")),
        )
        for m in report.get("measurements") or []
    )
    numbers = ("threads", "batch", "p50, ms", "p95, ms", "p99, ms", "samples", "texts/s", "times faster")
    return Table(("variant", "runtime", "precision", "device", *numbers), rows, text_columns=4) if rows else None


def parts_table(report: Report) -> Table | None:
    """Where a call's time goes, as means per call; None where nothing was timed in parts."""
    rows = tuple(
        (*_named(m), *(milliseconds(m.get(part)) for part in ("tokenise_ms", "run_ms", "answer_ms", "total_ms")))
        for m in report.get("measurements") or []
        if m.get("total_ms")
    )
    numbers = ("threads", "batch", "tokenise, ms", "run, ms", "answer, ms", "total, ms")
    return Table(("variant", "runtime", "precision", "device", *numbers), rows, text_columns=4) if rows else None


def timing_notes(report: Report) -> list[str]:
    """What a reader must know before using the latencies."""
    return list((report.get("timing") or {}).get("notes") or [])


def baseline_name(report: Report) -> str:
    """Which torch model the column `times faster` is against; empty where there is no such column."""
    found = [m["speed_up"]["over"] for m in report.get("measurements") or [] if m.get("speed_up")]
    return found[0] if found else ""


def nodes_in_words(report: Report) -> list[str]:
    """Where the operators of each graph ran, a sentence per precision and device other than the CPU."""
    return [
        f"{m['precision']} on {m['device']}: {_listed_nodes(m['nodes'])}."
        for m in _first_of_each(report.get("measurements") or [])
        if m.get("nodes") and m["device"] != "cpu"
    ]


def _first_of_each(measurements: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list({(m["precision"], m["device"]): m for m in reversed(measurements) if m.get("nodes")}.values())[::-1]


def _listed_nodes(nodes: Mapping[str, int]) -> str:
    return ", ".join(f"{number} operators by {provider}" for provider, number in nodes.items())


def _named(m: Mapping[str, Any]) -> tuple[str, ...]:
    runtime = ", ".join(part for part in (m.get("runtime") or MISSING, m.get("attention")) if part)
    return (
        _VARIANTS.get(m["variant"], m["variant"]),
        runtime,
        m.get("precision") or MISSING,
        m["device"],
        count(m["threads"]),
        count(m["batch_size"]),
    )


def _percentile(value: float | None) -> str:
    return milliseconds(value) if is_known(value) else TOO_FEW


def _ratio(found: Mapping[str, Any] | None) -> str:
    """`5.13 [5.02, 5.20]`; an interval stands only where the rounds support it."""
    if not found:
        return MISSING
    if found["verdict"] == "too few rounds":
        return f"{found['value']:.2f}"
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
