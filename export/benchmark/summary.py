"""From the seconds of single calls to what may be said of them.

A percentile stands only where the samples support it: at least five (p95) or ten (p99) timed calls lie beyond it,
and so does at least one of the different batches, since the same batch timed often says nothing of a longer text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.benchmark.variants import Variant
from export.statistics import CONFIDENCE, median_interval

MIN_SAMPLES_P95 = 100
MIN_SAMPLES_P99 = 1000
TOKENISE, RUN, ANSWER = range(3)
"""Columns of the timed parts of a call."""

NEGLIGIBLE = 0.01
"""Two variants nearer to each other than this do not differ for anybody who uses them."""

Verdict = Literal["faster", "slower", "no difference", "too few rounds"]


@dataclass(frozen=True)
class Timed:
    """What a variant's turns gave.

    Attributes:
        passes: one per round, seconds [calls, 3].
        is_steady: whether it had stopped getting faster before the first of them.
    """

    passes: Sequence[NDArray[np.float64]]
    is_steady: bool


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of one variant at one batch size.

    Attributes:
        variant: name of the variant.
        runtime: torch or onnxruntime.
        device: cpu or cuda.
        precision: of the variant.
        threads: of one call.
        batch_size: texts per call.
        p50_ms: median duration of the model's part of a call in milliseconds.
        p95_ms: of the same; None where the samples do not support it.
        p99_ms: of the same; None where the samples do not support it.
        samples: timed calls.
        texts_per_second: of the model's part, over all timed calls.
        round_seconds: the model's part of all calls of each round; for `compare_variants`.
        tokenise_ms: mean per call of tokenising and padding.
        run_ms: mean per call of the model.
        answer_ms: mean per call of turning logits into answers; None where that was not timed.
        total_ms: the sum of these means.
        attention: torch's implementation of attention; empty where there is no choice.
        is_steady: whether it had stopped getting faster before it was timed.
        nodes: of the graph, by the provider that computes them; None where that is not known.
    """

    variant: str
    runtime: str
    device: str
    precision: str
    threads: int
    batch_size: int
    p50_ms: float
    p95_ms: float | None
    p99_ms: float | None
    samples: int
    texts_per_second: float
    round_seconds: tuple[float, ...]
    tokenise_ms: float = 0.0
    run_ms: float = 0.0
    answer_ms: float | None = None
    total_ms: float = 0.0
    attention: str = ""
    is_steady: bool = True
    nodes: dict[str, int] | None = None


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How many times faster one is than another, paired by round.

    Attributes:
        value: median over the rounds of the other's seconds over its own; above 1 where it is faster.
        low: lower end of the interval.
        high: upper end of the interval.
        confidence: that the interval holds the true median, whatever the noise; below 0.95 with fewer than 6 rounds.
        rounds: that both ran.
    """

    value: float
    low: float
    high: float
    confidence: float
    rounds: int

    @property
    def verdict(self) -> Verdict:
        """What may be said; differences below a hundredth are none."""
        if self.confidence < CONFIDENCE:
            return "too few rounds"
        if self.low > 1 + NEGLIGIBLE:
            return "faster"
        return "slower" if self.high < 1 / (1 + NEGLIGIBLE) else "no difference"


def summarise(variant: Variant, batch_size: int, num_texts: int, timed: Timed) -> Measurement:
    """The figures of a variant's rounds."""
    calls = np.concatenate(timed.passes)
    milliseconds = calls[:, RUN] * 1000
    means = calls.mean(axis=0) * 1000
    num_batches = len(timed.passes[0])
    return Measurement(
        variant=variant.name,
        runtime=variant.runtime,
        device=variant.device,
        precision=variant.precision,
        threads=variant.threads,
        batch_size=batch_size,
        p50_ms=float(np.median(milliseconds)),
        p95_ms=_percentile(milliseconds, 95, MIN_SAMPLES_P95, num_batches),
        p99_ms=_percentile(milliseconds, 99, MIN_SAMPLES_P99, num_batches),
        samples=len(calls),
        texts_per_second=num_texts * len(timed.passes) / float(calls[:, RUN].sum()),
        round_seconds=tuple(float(calls_of_round[:, RUN].sum()) for calls_of_round in timed.passes),
        tokenise_ms=float(means[TOKENISE]),
        run_ms=float(means[RUN]),
        answer_ms=None if variant.answer is None else float(means[ANSWER]),
        total_ms=float(means[TOKENISE] + means[RUN] + (means[ANSWER] if variant.answer else 0.0)),
        attention=variant.attention,
        is_steady=timed.is_steady,
        nodes=None if variant.nodes is None else dict(variant.nodes),
    )


def _percentile(milliseconds: NDArray[np.float64], percentile: int, min_samples: int, num_batches: int) -> float | None:
    is_supported = len(milliseconds) >= min_samples and num_batches * (100 - percentile) >= 100
    return float(np.percentile(milliseconds, percentile)) if is_supported else None


def ratio_between(baseline: Measurement, other: Measurement) -> Ratio:
    """How many times faster the other one is than the baseline.

    Raises:
        ValueError: they are not of the same benchmark.
    """
    own, others = len(baseline.round_seconds), len(other.round_seconds)
    if (baseline.batch_size, baseline.samples, own) != (other.batch_size, other.samples, others):
        raise ValueError("only measurements of one batch size and one benchmark can be compared")
    return paired(np.array(baseline.round_seconds), np.array(other.round_seconds))


def paired(baseline: NDArray[np.float64], other: NDArray[np.float64]) -> Ratio:
    """`ratio_between` for the seconds of rounds that both ran, each [rounds]."""
    value, low, high, confidence = median_interval(baseline / other)
    return Ratio(value=value, low=low, high=high, confidence=confidence, rounds=len(baseline))


def compare_variants(baseline: Measurement, other: Measurement) -> tuple[float, float, float]:
    """`ratio_between` as (ratio, low, high), its ends at 95% confidence from 6 rounds on."""
    ratio = ratio_between(baseline, other)
    return ratio.value, ratio.low, ratio.high
