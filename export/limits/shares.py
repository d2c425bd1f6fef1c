"""How near a graph comes to what this machine can do at most, and where the rest of its time goes."""

from __future__ import annotations

from typing import Literal

import msgspec

from export.limits.peaks import Peaks
from export.limits.work import Work

Bound = Literal["arithmetic", "memory"]
_SHOWN_OPERATORS = 4


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """A graph beside the physical limit.

    Attributes:
        step: of the waterfall whose rate is meant.
        precision: of the graph.
        operations_per_text: in matrix products, for the texts themselves, padding left out.
        padding: share of the operations in [0, 1) that the batches spend on padding.
        weight_bytes: that one call reads.
        texts_per_second: reached.
        limit_texts_per_second: at the peak, if there were nothing but matrix products.
        share: reached of the limit, in [0, 1].
        bound: what the limit comes from.
        product_share: of the graph's time on one thread, that matrix products take.
        product_rate: of the one-thread peak, that these products reach.
        others: share of the time by operator, the largest of the others.
        between: share of the time between operators.
    """

    step: str
    precision: str
    operations_per_text: float
    padding: float
    weight_bytes: int
    texts_per_second: float
    limit_texts_per_second: float
    share: float
    bound: Bound
    product_share: float
    product_rate: float
    others: dict[str, float]
    between: float


def hold_against_peaks(
    work: Work,
    needed: Work,
    *,
    step: str,
    precision: str,
    texts_per_second: float,
    peaks: tuple[Peaks, Peaks],
) -> Limit:
    """Compare what a step reaches with what the machine could do.

    Args:
        work: of its graph in the batches that the step ran, on one thread.
        needed: of the same texts one by one, which need no padding.
        step: of the waterfall.
        precision: of the graph.
        texts_per_second: that the step reached.
        peaks: of all threads, and of one.
    """
    together, alone = peaks
    arithmetic = _arithmetic_seconds(needed, together)
    seconds, bound = max((arithmetic, "arithmetic"), (_memory_seconds(work, together), "memory"))
    limit = work.texts / seconds
    spent = work.product_seconds + sum(work.other_seconds.values())
    whole = max(work.call_seconds, spent)
    others = {operator: found / whole for operator, found in list(work.other_seconds.items())[:_SHOWN_OPERATORS]}
    return Limit(
        step=step,
        precision=precision,
        operations_per_text=sum(needed.operations.values()) / needed.texts,
        padding=1 - sum(needed.operations.values()) / sum(work.operations.values()),
        weight_bytes=work.weight_bytes,
        texts_per_second=texts_per_second,
        limit_texts_per_second=limit,
        share=texts_per_second / limit,
        bound="memory" if bound == "memory" else "arithmetic",
        product_share=work.product_seconds / whole,
        product_rate=_arithmetic_seconds(work, alone) / work.product_seconds,
        others=others,
        between=(whole - spent) / whole,
    )


def _arithmetic_seconds(work: Work, peaks: Peaks) -> float:
    return work.operations["fp32"] / peaks.fp32 + work.operations["int8"] / peaks.int8


def _memory_seconds(work: Work, peaks: Peaks) -> float:
    """Reading the weights once per call; nothing where they stay in the last-level cache."""
    if peaks.cache_bytes is not None and work.weight_bytes <= peaks.cache_bytes:
        return 0.0
    return work.calls * work.weight_bytes / peaks.read_bytes
