"""Latency of several variants, side by side: interleaved rounds, paired ratios, and what disturbed them."""

from export.benchmark.conditions import Conditions, Watch
from export.benchmark.drift import Drift, find_drift
from export.benchmark.notes import notes_on, notes_on_load
from export.benchmark.rounds import DEFAULT_ROUNDS, SETTLE_SECONDS, Clock, Pace, run_benchmark, time_alone
from export.benchmark.summary import (
    MIN_SAMPLES_P95,
    MIN_SAMPLES_P99,
    Measurement,
    Ratio,
    compare_variants,
    paired,
    ratio_between,
)
from export.benchmark.variants import (
    Variant,
    answer_all,
    group_texts,
    keep_order,
    make_batches,
    synchronised,
    tokenise_group,
    torch_threads,
)

__all__ = [
    "DEFAULT_ROUNDS",
    "MIN_SAMPLES_P95",
    "MIN_SAMPLES_P99",
    "SETTLE_SECONDS",
    "Clock",
    "Conditions",
    "Drift",
    "Measurement",
    "Pace",
    "Ratio",
    "Variant",
    "Watch",
    "answer_all",
    "compare_variants",
    "find_drift",
    "group_texts",
    "keep_order",
    "make_batches",
    "notes_on",
    "notes_on_load",
    "paired",
    "ratio_between",
    "run_benchmark",
    "synchronised",
    "time_alone",
    "tokenise_group",
    "torch_threads",
]
