"""Latency of several variants, interleaved so that they share the machine's good and bad moments.

What is timed is the model alone: texts are tokenised beforehand, sorted by length, and padded only to the
longest of their own batch. One round runs every batch once with every variant, in an order that turns from
round to round.

Torch's OpenMP workers spin for a while after their last call and would take CPU time from the next variant.
So each turn begins with a pause longer than that, and with one untimed call that warms the caches for its own
model. Thread counts of torch are set for a turn and put back.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from export.runners import Inputs, Runner, limit_threads
from export.statistics import paired_ratio
from serving.errors import UserError
from serving.tokenise import TextEncoder

DEFAULT_ROUNDS = 10
SETTLE_SECONDS = 0.02 if sys.platform == "linux" else 0.25
"""Longer than OpenMP workers spin after a call: below 3 ms in GNU's, which torch brings along on Linux;
200 ms in LLVM's and Intel's."""

MIN_SAMPLES_P95 = 100
MIN_SAMPLES_P99 = 1000
QUICK_TEXTS = 32
QUICK_ROUNDS = 5
Clock = Callable[[], float]


@dataclass(frozen=True)
class Variant:
    """One way of running a model.

    Attributes:
        name: which model, for example teacher or student.
        runtime: torch or onnxruntime.
        precision: fp32, bf16, int8, ...
        device: cpu or cuda.
        threads: that one call computes with.
        run: computes a padded batch; must have finished the work when it returns.
        turn: entered around each turn of this variant, for example `torch_threads`.
        encoder: tokenises for this variant where it reads other ids than the rest; None for the common one.
    """

    name: str
    runtime: str
    precision: str
    device: str
    threads: int
    run: Runner
    turn: Callable[[], AbstractContextManager[None]] = nullcontext
    encoder: TextEncoder | None = None


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of one variant at one batch size.

    Attributes:
        variant: name of the variant.
        runtime: torch or onnxruntime.
        device: cpu or cuda.
        precision: of the variant.
        threads: of one call.
        batch_size: texts per call.
        p50_ms: median duration of a call in milliseconds.
        p95_ms: None with fewer than 100 samples.
        p99_ms: None with fewer than 1,000 samples.
        samples: timed calls.
        texts_per_second: over all timed calls.
        round_seconds: total of the calls of each round; for `compare_variants`.
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


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: how often every variant runs every batch.
        settle_seconds: pause before each turn.
        clock: seconds, monotonic.
        sleep: waits for so many seconds.
    """

    rounds: int = DEFAULT_ROUNDS
    settle_seconds: float = SETTLE_SECONDS
    clock: Clock = time.perf_counter
    sleep: Callable[[float], None] = time.sleep


@dataclass
class _Durations:
    """Seconds of every call of one variant, by round."""

    rounds: list[list[float]] = field(default_factory=list)


def run_benchmark(
    variants: Sequence[Variant],
    encoder: TextEncoder,
    texts: Sequence[tuple[str, ...]],
    *,
    batch_sizes: Sequence[int] = (1, 8),
    pace: Pace | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Measurement]:
    """Time every variant at every batch size.

    Args:
        variants: at least one.
        encoder: tokenises and pads, outside the timed part.
        texts: with their own lengths.
        batch_sizes: texts per call.
        pace: rounds and pauses; None for the defaults.
        advance: told after each turn; there are variants x batch sizes x (rounds + 1), warm-up included.

    Returns:
        Batch size by batch size, the variants in their order.

    Raises:
        UserError: no texts, or a batch size below 1.
    """
    pace = pace or Pace()
    measurements: list[Measurement] = []
    for batch_size in batch_sizes:
        batches = [make_batches(variant.encoder or encoder, texts, batch_size) for variant in variants]
        durations = [_Durations() for _ in variants]
        for round_number in range(pace.rounds + 1):
            for index in _turns(len(variants), round_number):
                seconds = _take_turn(variants[index], batches[index], pace)
                if round_number:  # the first round warms up
                    durations[index].rounds.append(seconds)
                advance()
        measurements += [
            _summarise(variant, batch_size, len(texts), timed.rounds)
            for variant, timed in zip(variants, durations, strict=True)
        ]
    return measurements


def compare_variants(baseline: Measurement, other: Measurement) -> tuple[float, float, float]:
    """How many times faster the other one is, with its 95% interval over the rounds both ran.

    Raises:
        ValueError: they are not of the same benchmark.
    """
    if (baseline.batch_size, baseline.samples) != (other.batch_size, other.samples):
        raise ValueError("only measurements of one batch size and one benchmark can be compared")
    return paired_ratio(np.array(baseline.round_seconds), np.array(other.round_seconds))


def make_batches(encoder: TextEncoder, texts: Sequence[tuple[str, ...]], batch_size: int) -> list[Inputs]:
    """All texts in batches of like length, each padded to its own longest text only."""
    if not texts or batch_size < 1:
        raise UserError(
            f"cannot measure {len(texts)} texts in batches of {batch_size}. "
            "Give at least one text, and a batch size of at least 1."
        )
    encodings = sorted(encoder.encode(texts), key=len)
    return [encoder.batch(encodings[start : start + batch_size]) for start in range(0, len(encodings), batch_size)]


def time_alone(runs: Mapping[str, Runner], encoder: TextEncoder, texts: Sequence[tuple[str, ...]]) -> dict[str, float]:
    """A quick look: median seconds of one text alone, per runner, interleaved; enough to choose a default."""
    picks = np.linspace(0, len(texts) - 1, num=min(QUICK_TEXTS, len(texts))).round().astype(int)
    variants = [Variant(name, "onnxruntime", name, "cpu", 1, run) for name, run in runs.items()]
    measured = run_benchmark(
        variants,
        encoder,
        [texts[pick] for pick in picks],
        batch_sizes=(1,),
        pace=Pace(rounds=QUICK_ROUNDS, settle_seconds=0.0),
    )
    return {measurement.variant: measurement.p50_ms / 1000 for measurement in measured}


def torch_threads(threads: int) -> Callable[[], AbstractContextManager[None]]:
    """A variant's `turn` that lets torch compute with so many threads, and puts the old number back."""
    return partial(limit_threads, threads)


def synchronised(run: Runner) -> Runner:
    """A runner that waits for the GPU before and after, so that only its own work is timed."""

    def run_and_wait(inputs: Inputs) -> dict[str, NDArray[np.float32]]:
        torch.cuda.synchronize()
        logits = run(inputs)
        torch.cuda.synchronize()
        return logits

    return run_and_wait


def _turns(num_variants: int, round_number: int) -> list[int]:
    """Each round begins with another variant and every second one runs backwards."""
    order = [(place + round_number // 2) % num_variants for place in range(num_variants)]
    return order[::-1] if round_number % 2 else order


def _take_turn(variant: Variant, batches: Sequence[Inputs], pace: Pace) -> list[float]:
    """Seconds of each batch, after the pause and one untimed call."""
    pace.sleep(pace.settle_seconds)
    seconds: list[float] = []
    with variant.turn():
        variant.run(batches[0])
        for batch in batches:
            start = pace.clock()
            variant.run(batch)
            seconds.append(pace.clock() - start)
    return seconds


def _summarise(variant: Variant, batch_size: int, num_texts: int, rounds: Sequence[Sequence[float]]) -> Measurement:
    calls = np.concatenate([np.asarray(seconds) for seconds in rounds])
    milliseconds = calls * 1000
    return Measurement(
        variant=variant.name,
        runtime=variant.runtime,
        device=variant.device,
        precision=variant.precision,
        threads=variant.threads,
        batch_size=batch_size,
        p50_ms=float(np.median(milliseconds)),
        p95_ms=_percentile(milliseconds, 95, MIN_SAMPLES_P95),
        p99_ms=_percentile(milliseconds, 99, MIN_SAMPLES_P99),
        samples=len(calls),
        texts_per_second=num_texts * len(rounds) / float(calls.sum()),
        round_seconds=tuple(float(sum(seconds)) for seconds in rounds),
    )


def _percentile(values: NDArray[np.float64], percentile: float, min_samples: int) -> float | None:
    return float(np.percentile(values, percentile)) if len(values) >= min_samples else None
