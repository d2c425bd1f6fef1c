"""From the padded teacher to what is served, one step at a time: what each is worth, and what a text costs there.

Every step answers the same texts from text to answer: tokenised on the calling thread, run, turned into labels.
Where a step has several ways of running (attention, batch size), each is tried and the fastest is taken; its figures
come from new rounds, in which the steps take turns, so that no step profits from the choice. CPU seconds are those
of all threads of this process, waiting threads that spin included: they are paid for too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import msgspec
import numpy as np

from export.benchmark.rounds import Clock, Pace, turns
from export.benchmark.summary import Ratio, paired
from export.benchmark.variants import Answer, Text, group_texts, tokenise_group
from export.runners import Inputs, Runner
from serving.manifest import InputSpec
from serving.tokenise import TextEncoder

TRIALS = 2
SECONDS_PER_HOUR = 3600
MILLION = 1_000_000


@dataclass(frozen=True)
class Model:
    """What answers a text: several where a text needs them all, one after the other.

    Attributes:
        run: computes a padded batch.
        encoder: of its tokens.
        answer: turns its logits into answers.
    """

    run: Runner
    encoder: TextEncoder
    answer: Answer


@dataclass(frozen=True)
class Way:
    """One way of running a step.

    Attributes:
        label: for example `sdpa, batch 8`.
        work: answers all its texts once.
        num_texts: that it answers.
        turn: entered around it.
    """

    label: str
    work: Callable[[], None]
    num_texts: int
    turn: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class Step:
    """One step of the waterfall.

    Attributes:
        name: padded, torch, student, a precision, or lanes.
        subject: whose answers it gives: teacher, student or a precision.
        ways: of running it; the fastest counts.
    """

    name: str
    subject: str
    ways: Sequence[Way]


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of a step.

    Attributes:
        name: of the step.
        subject: whose answers it gives.
        way: the fastest of those tried.
        tried: texts per second of every way, from the trials.
        texts_per_second: of the way taken, from the rounds after the trials; their median.
        cpu_seconds_per_text: mean over the rounds.
        factor: how many times faster than the step before; None for the first.
        overall: how many times faster than the first step; None for that itself.
        over_baseline: how many times faster than the step that was named as the baseline; None for that itself.
    """

    name: str
    subject: str
    way: str
    tried: dict[str, float]
    texts_per_second: float
    cpu_seconds_per_text: float
    factor: Ratio | None
    overall: Ratio | None
    over_baseline: Ratio | None

    @property
    def cpu_hours_per_million(self) -> float:
        """CPU-hours that a million texts take."""
        return self.cpu_seconds_per_text * MILLION / SECONDS_PER_HOUR


@dataclass
class _Chosen:
    """A step with its fastest way and what its rounds took, in seconds per text."""

    step: Step
    way: Way
    tried: dict[str, float]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


def measure_waterfall(
    steps: Sequence[Step],
    *,
    pace: Pace,
    baseline: str,
    cpu_clock: Clock = time.process_time,
    advance: Callable[[], None] = lambda: None,
) -> list[StepResult]:
    """Choose every step's fastest way, then time the steps in turns.

    Args:
        steps: in their order, at least one.
        pace: rounds, pause and clock.
        baseline: name of the step that the others are held against.
        cpu_clock: CPU seconds of this process.
        advance: told after every pass; there are `count_passes` of them.
    """
    chosen = [_choose(step, pace, advance) for step in steps]
    for round_number in range(pace.rounds):
        for index in turns(len(chosen), round_number):
            _take_turn(chosen[index], pace, cpu_clock)
            advance()
    before = [None, *chosen[:-1]]
    held_against = next(one for one in chosen if one.step.name == baseline)
    return [_result(*pair, first=chosen[0], baseline=held_against) for pair in zip(chosen, before, strict=True)]


def count_passes(steps: Sequence[Step], rounds: int) -> int:
    """How often `measure_waterfall` tells its progress."""
    return sum(TRIALS * len(step.ways) + rounds for step in steps)


def _choose(step: Step, pace: Pace, advance: Callable[[], None]) -> _Chosen:
    """The way with the fastest of its trials; the first trial of each warms it up."""
    seconds = dict.fromkeys((way.label for way in step.ways), float("inf"))
    for _ in range(TRIALS):
        for way in step.ways:
            seconds[way.label] = min(seconds[way.label], _seconds_per_text(way, pace.clock))
            advance()
    way = min(step.ways, key=lambda way: seconds[way.label])
    return _Chosen(step, way, {label: 1 / found for label, found in seconds.items()})


def _take_turn(chosen: _Chosen, pace: Pace, cpu_clock: Clock) -> None:
    pace.sleep(pace.settle_seconds)
    begin = cpu_clock()
    chosen.seconds.append(_seconds_per_text(chosen.way, pace.clock))
    chosen.cpu_seconds.append((cpu_clock() - begin) / chosen.way.num_texts)


def _seconds_per_text(way: Way, clock: Clock) -> float:
    with way.turn():
        begin = clock()
        way.work()
        return (clock() - begin) / way.num_texts


def _result(chosen: _Chosen, before: _Chosen | None, *, first: _Chosen, baseline: _Chosen) -> StepResult:
    return StepResult(
        name=chosen.step.name,
        subject=chosen.step.subject,
        way=chosen.way.label,
        tried=chosen.tried,
        texts_per_second=float(1 / np.median(chosen.seconds)),
        cpu_seconds_per_text=float(np.mean(chosen.cpu_seconds)),
        factor=_factor(before, chosen) if before else None,
        overall=_factor(first, chosen) if before else None,
        over_baseline=None if chosen is baseline else _factor(baseline, chosen),
    )


def _factor(slower: _Chosen, faster: _Chosen) -> Ratio:
    return paired(np.array(slower.seconds), np.array(faster.seconds))


def in_batches(models: Sequence[Model], texts: Sequence[Text], batch_size: int) -> Callable[[], None]:
    """Work that answers texts in batches of like length, unpadded but for the longest of each batch."""
    grouped = [(model, group_texts(model.encoder, texts, batch_size)) for model in models]

    def work() -> None:
        for model, groups in grouped:
            for group in groups:
                model.answer(model.run(tokenise_group(model.encoder, group)))

    return work


def padded(models: Sequence[Model], texts: Sequence[Text], batch_size: int) -> Callable[[], None]:
    """Work that answers texts in the order given, each padded to the model's whole length."""
    groups = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]

    def work() -> None:
        for model in models:
            for group in groups:
                inputs = pad_whole(tokenise_group(model.encoder, group), model.encoder.inputs)
                model.answer(model.run(inputs))

    return work


def in_lanes(model: Model, texts: Sequence[Text], batch_size: int, *, lanes: int) -> Callable[[], None]:
    """Work that answers batches of like length on so many threads at once; the model computes each on one."""
    groups = group_texts(model.encoder, texts, batch_size)

    def answer(group: list[Text]) -> None:
        model.answer(model.run(tokenise_group(model.encoder, group)))

    def work() -> None:
        with ThreadPoolExecutor(lanes) as pool:
            list(pool.map(answer, reversed(groups)))  # the longest first, so that no lane ends long after the others

    return work


def pad_whole(inputs: Inputs, spec: InputSpec) -> Inputs:
    """A batch padded to `max_length` tokens, [batch, max_length]."""
    fill = {"input_ids": spec.pad_id, "attention_mask": 0, "token_type_ids": spec.pad_token_type_id}
    return {
        name: np.pad(array, ((0, 0), (0, spec.max_length - array.shape[1])), constant_values=fill[name])
        for name, array in inputs.items()
    }
