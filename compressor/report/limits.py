"""The artifacts beside the physical limit, and in words what stands between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compressor.report.table import Table
from compressor.report.wording import count, listed, megabytes, number_of

_SLOW_PRODUCTS = 0.7
_MANY_OTHERS = 0.25
_IDLE_THREADS = 0.8
_MUCH_PADDING = 0.1

Row = Mapping[str, Any]


def limits_table(found: Row) -> Table | None:
    """Work, limit and reached share of every step that runs an artifact."""
    rows = tuple(
        (
            _called(limit),
            f"{limit['operations_per_text'] / 1e6:,.1f}",
            megabytes(limit["weight_bytes"]),
            limit["bound"],
            count(limit["limit_texts_per_second"]),
            count(limit["texts_per_second"]),
            f"{limit['share']:.0%}",
            f"{limit['product_share']:.0%}",
            f"{limit['product_rate']:.0%}",
        )
        for limit in found.get("limits") or []
    )
    columns = (
        "artifact",
        "million operations per text",
        "weights read per call",
        "bound by",
        "limit, texts/s",
        "reached, texts/s",
        "share",
        "time in matrix products",
        "their rate, of the peak",
    )
    return Table(columns, rows) if rows else None


def seen_in_limits(found: Row) -> Iterator[str]:
    """The peaks, then for every artifact what it reaches and what holds it back."""
    limits, peaks = found.get("limits") or [], found.get("peaks") or []
    if not limits or not peaks:
        return
    best = peaks[0]
    yield (
        f"At most, measured with {number_of(best['threads'], 'thread')}: {best['fp32'] / 1e9:,.0f} billion fp32 and "
        f"{best['int8'] / 1e9:,.0f} billion int8 operations per second in large matrix products, and "
        f"{best['read_bytes'] / 1e9:,.1f} GB per second read from memory."
    )
    yield from (f"{_called(limit)}: {_held_back(limit)}" for limit in limits)


def _called(limit: Row) -> str:
    return f"{limit['precision']} in lanes" if limit["step"] == "lanes" else str(limit["precision"])


def _held_back(limit: Row) -> str:
    """What was reached, and the reasons, the figures of each beside it."""
    reasons = list(_reasons(limit))
    reached = f"{limit['share']:.0%} of what matrix products alone would allow"
    return f"{reached}; {listed(reasons)}." if reasons else f"{reached}; little stands between."


def _reasons(limit: Row) -> Iterator[str]:
    if limit["product_rate"] < _SLOW_PRODUCTS:
        yield (
            f"its matrices are small, so that the products run at {limit['product_rate']:.0%} of the peak of large ones"
        )
    if (others := 1 - limit["product_share"]) > _MANY_OTHERS:
        named = listed([f"{operator} {share:.0%}" for operator, share in list(limit["others"].items())[:3]])
        between = f"{limit['between']:.0%} between operators"
        yield f"{others:.0%} of the graph's time is no matrix product ({named}, {between})"
    if limit["padding"] > _MUCH_PADDING:
        yield f"{limit['padding']:.0%} of the operations are spent on padding to the longest text of each batch"
    explained = limit["product_share"] * limit["product_rate"] * (1 - limit["padding"])
    if limit["share"] < _IDLE_THREADS * explained:
        yield (
            f"the graph by itself would reach {explained:.0%} on one thread: the rest is lost outside of it, to "
            "tokenising, answers and threads that wait for each other"
        )
