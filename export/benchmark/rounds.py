"""Variants take turns, so that they share the machine's good and bad moments.

One round runs every batch once with every variant, in an order that turns from round to round. Texts are sorted by
length, unless a variant groups them by itself, and padded only to the longest of their own batch. Of each call three
parts are timed apart: tokenising, the model, and turning logits into answers.

Torch's OpenMP workers spin for a while after their last call and would take CPU time from the next variant.
So each turn begins with a pause longer than that, and with one untimed call that warms the caches for its own
model. Thread counts of torch are set for a turn and put back.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.benchmark.summary import RUN, Measurement, Timed, summarise
from export.benchmark.variants import Text, Variant, group_texts, tokenise_group
from export.runners import Runner
from serving.tokenise import TextEncoder

DEFAULT_ROUNDS = 10
SETTLE_SECONDS = 0.02 if sys.platform == "linux" else 0.25
"""Longer than OpenMP workers spin after a call: below 3 ms in GNU's, which torch brings along on Linux;
200 ms in LLVM's and Intel's."""

STEADY_SHARE = 0.95
MOST_WARM_UPS = 6
QUICK_TEXTS = 32
QUICK_ROUNDS = 5
Clock = Callable[[], float]


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: how often every variant runs every batch.
        settle_seconds: pause before each turn.
        clock: seconds, monotonic.
        sleep: waits for so many seconds.
        most_warm_ups: untimed passes that a variant may take to become steady.
    """

    rounds: int = DEFAULT_ROUNDS
    settle_seconds: float = SETTLE_SECONDS
    clock: Clock = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    most_warm_ups: int = MOST_WARM_UPS


@dataclass
class _Work:
    """One variant with its batches, and what was timed of it."""

    variant: Variant
    encoder: TextEncoder
    groups: list[list[Text]]
    is_steady: bool = False
    passes: list[NDArray[np.float64]] = field(default_factory=list)


def run_benchmark(
    variants: Sequence[Variant],
    encoder: TextEncoder,
    texts: Sequence[Text],
    *,
    batch_sizes: Sequence[int] = (1, 8),
    pace: Pace | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Measurement]:
    """Time every variant at every batch size.

    Args:
        variants: at least one.
        encoder: tokenises and pads.
        texts: with their own lengths.
        batch_sizes: texts per call.
        pace: rounds and pauses; None for the defaults.
        advance: told after each turn and each warm-up; there are variants x batch sizes x (rounds + 1).

    Returns:
        Batch size by batch size, the variants in their order.

    Raises:
        UserError: no texts, or a batch size below 1.
    """
    pace = pace or Pace()
    return [
        measurement
        for batch_size in batch_sizes
        for measurement in _at_batch_size(variants, encoder, texts, batch_size, pace=pace, advance=advance)
    ]


def _at_batch_size(
    variants: Sequence[Variant],
    encoder: TextEncoder,
    texts: Sequence[Text],
    batch_size: int,
    *,
    pace: Pace,
    advance: Callable[[], None],
) -> list[Measurement]:
    encoders = [variant.encoder or encoder for variant in variants]
    groups = [
        (variant.group or group_texts)(own, texts, batch_size) for variant, own in zip(variants, encoders, strict=True)
    ]
    works = [_Work(*parts) for parts in zip(variants, encoders, groups, strict=True)]
    for work in works:
        work.is_steady = _warm_up(work, pace)
        advance()
    for round_number in range(pace.rounds):
        for index in turns(len(works), round_number):
            works[index].passes.append(_take_turn(works[index], pace))
            advance()
    return [summarise(w.variant, batch_size, len(texts), Timed(w.passes, w.is_steady)) for w in works]


def turns(num_variants: int, round_number: int) -> list[int]:
    """Each round begins with another variant and every second one runs backwards."""
    order = [(place + round_number // 2) % num_variants for place in range(num_variants)]
    return order[::-1] if round_number % 2 else order


def _warm_up(work: _Work, pace: Pace) -> bool:
    """Passes until one is no longer faster than the fastest before it; whether it came to that."""
    fastest = float("inf")
    for _ in range(pace.most_warm_ups):
        seconds = float(_take_turn(work, pace)[:, RUN].sum())
        if seconds >= STEADY_SHARE * fastest:
            return True
        fastest = seconds
    return False


def _take_turn(work: _Work, pace: Pace) -> NDArray[np.float64]:
    """Seconds of each call's parts, [calls, 3], after the pause and one untimed call."""
    pace.sleep(pace.settle_seconds)
    with work.variant.turn():
        _call(work, work.groups[0], pace.clock)
        return np.array([_call(work, group, pace.clock) for group in work.groups])


def _call(work: _Work, texts: Sequence[Text], clock: Clock) -> tuple[float, float, float]:
    """Seconds of tokenising, running and answering one batch."""
    answer = work.variant.answer
    begin = clock()
    inputs = tokenise_group(work.encoder, texts)
    tokenised = clock()
    logits = work.variant.run(inputs)
    ran = clock()
    if answer is not None:
        answer(logits)
    return tokenised - begin, ran - tokenised, clock() - ran


def time_alone(runs: Mapping[str, Runner], encoder: TextEncoder, texts: Sequence[Text]) -> dict[str, float]:
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
