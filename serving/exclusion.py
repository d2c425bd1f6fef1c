"""What a manifest says of the layers that an artifact keeps in fp32: which, why, and at what price."""

from __future__ import annotations

from typing import Literal

import msgspec


class ExclusionStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the search for layers that must stay fp32.

    Attributes:
        layer: what became fp32 at this step; None at the start, where nothing was excluded.
        metric_drop: against fp32 on validation, of the worst task; None where it is undefined.
        low: lower end of its 95% interval.
        high: upper end.
        verdict: of the gate on that drop.
    """

    layer: str | None
    metric_drop: float | None
    low: float | None
    high: float | None
    verdict: Literal["passed", "failed", "inconclusive"]


class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """What was left in fp32, and why.

    Attributes:
        mode: auto, none, or by name.
        layers: the excluded ones, in their order.
        steps: of the search; empty where there was none.
        note: what was done, in a sentence.
        bytes_paid: how much larger the file is for it.
        latency_ratio: how many times longer one text takes for it, with its 95% interval; None where it was not timed.
    """

    mode: str
    layers: tuple[str, ...] = ()
    steps: tuple[ExclusionStep, ...] = ()
    note: str
    bytes_paid: int = 0
    latency_ratio: tuple[float, float, float] | None = None
