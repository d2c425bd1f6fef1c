"""The interleaved rounds, with a clock that only variants move, and once with the real one."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from export.benchmark import (
    Measurement,
    Pace,
    Variant,
    find_drift,
    keep_order,
    make_batches,
    ratio_between,
    run_benchmark,
    time_alone,
    torch_threads,
)
from export.benchmark.rounds import turns
from export.runners import Inputs, Logits
from serving.errors import UserError
from serving.tokenise import Encoding, TextEncoder
from tests.export.benchmark.conftest import FakeMachine
from tests.export.conftest import make_texts


def _benchmark(
    encoder: TextEncoder, *seconds_per_token: float, rounds: int = 6, num_texts: int = 20
) -> tuple[FakeMachine, list[Measurement]]:
    machine = FakeMachine()
    variants = [machine.variant(f"v{place}", seconds) for place, seconds in enumerate(seconds_per_token)]
    texts = make_texts(num_texts)
    measured = run_benchmark(variants, encoder, texts, batch_sizes=(1, 8), pace=machine.pace(rounds))
    return machine, measured


def test_only_the_calls_are_timed(encoder: TextEncoder) -> None:
    """Pauses or warm-up inside the timing would drown a small model."""
    _, measured = _benchmark(encoder, 0.001)

    lengths = sorted(len(encoding) for encoding in encoder.encode(make_texts(20)))
    assert measured[0].p50_ms == pytest.approx(float(np.median(lengths)))
    assert measured[0].samples == 6 * 20
    assert measured[0].texts_per_second == pytest.approx(20 / (sum(lengths) * 0.001))


def test_a_variant_may_take_its_texts_as_they_come(encoder: TextEncoder) -> None:
    """A program that does not look at lengths pads more, and must be timed with what it pads."""
    machine = FakeMachine()
    given, alike = machine.variant("as they come", 0.001), machine.variant("of like length", 0.001)
    texts = make_texts(24)
    pace = machine.pace(6)
    measured = run_benchmark([replace(given, group=keep_order), alike], encoder, texts, batch_sizes=(8,), pace=pace)

    def padded(lengths: list[int]) -> int:
        return sum(max(lengths[start : start + 8]) for start in range(0, 24, 8))

    lengths = [len(encoding) for encoding in encoder.encode(texts)]
    assert padded(lengths) > padded(sorted(lengths))
    assert measured[0].round_seconds[0] == pytest.approx(padded(lengths) * 0.008)
    assert measured[1].round_seconds[0] == pytest.approx(padded(sorted(lengths)) * 0.008)


def test_the_first_call_of_a_turn_is_not_timed(encoder: TextEncoder) -> None:
    """It loads the caches that the variant before it has filled, which no server in steady state does."""
    machine = FakeMachine()
    cold = machine.variant("cold", 0.001)

    def pause(seconds: float) -> None:
        machine.calls.append("pause")

    def run(inputs: Inputs) -> Logits:
        machine.now += 100.0 if machine.calls[-1] == "pause" else 0.0
        return cold.run(inputs)

    pace = Pace(rounds=3, settle_seconds=1.0, clock=machine.clock, sleep=pause)
    variant = Variant("cold", "onnxruntime", "fp32", "cpu", 1, run)
    measured = run_benchmark([variant], encoder, make_texts(5), batch_sizes=(1,), pace=pace)

    assert measured[0].texts_per_second > 1


def test_a_variant_is_warmed_until_it_is_steady(encoder: TextEncoder) -> None:
    """A runtime that plans for every new shape is slow for some passes; one warm-up call does not show it."""
    machine = FakeMachine()
    per_pass = 10 + 1
    variant = machine.changing("warming", lambda calls: 0.001 * max(1, 8 >> (calls // per_pass)))

    measured = run_benchmark([variant], encoder, make_texts(10), batch_sizes=(1,), pace=machine.pace(3))

    assert measured[0].is_steady
    assert max(measured[0].round_seconds) == pytest.approx(min(measured[0].round_seconds))


def test_a_variant_that_never_becomes_steady_is_told(encoder: TextEncoder) -> None:
    """Its figures are those of a warm-up, and somebody must know."""
    machine = FakeMachine()
    variant = machine.changing("warming", lambda calls: 0.9**calls)

    measured = run_benchmark([variant], encoder, make_texts(5), batch_sizes=(1,), pace=machine.pace(3))

    assert not measured[0].is_steady
    assert len(machine.calls) == (Pace().most_warm_ups + 3) * (5 + 1)


def test_the_parts_of_a_call_are_timed_apart_and_add_up(encoder: TextEncoder) -> None:
    """Tokenising hidden in the model's time flatters a small model's rival, left out it flatters both."""
    machine = FakeMachine()

    def answer(logits: Logits) -> None:
        machine.now += 0.5

    class SlowEncoder(TextEncoder):
        def encode_checked(self, text: tuple[str, ...]) -> Encoding:
            machine.now += 0.25
            return encoder.encode_checked(text)

    slow = SlowEncoder(encoder._tokenizer, encoder.inputs)
    variants = [machine.variant("answers", 0.001, answer=answer), machine.variant("silent", 0.001)]
    pace = machine.pace(3)
    answers, silent = run_benchmark(variants, slow, make_texts(8), batch_sizes=(2,), pace=pace)

    assert answers.tokenise_ms == pytest.approx(2 * 250)
    assert answers.answer_ms == pytest.approx(500)
    assert answers.total_ms == pytest.approx(500 + answers.run_ms + 500)
    assert silent.answer_ms is None
    assert silent.total_ms == pytest.approx(500 + silent.run_ms)
    assert answers.run_ms == pytest.approx(silent.run_ms)


def test_batches_are_padded_to_their_own_longest_only(encoder: TextEncoder) -> None:
    """Padding everything to the longest text would sell padding as compression."""
    texts = make_texts(20)
    lengths = sorted(len(encoding) for encoding in encoder.encode(texts))

    widths = [batch["input_ids"].shape for batch in make_batches(encoder, texts, 8)]

    assert widths == [(8, lengths[7]), (8, lengths[15]), (4, lengths[19])]


def test_a_variant_against_itself_shows_no_difference(encoder: TextEncoder) -> None:
    """An order effect would make the first or the last variant look fast."""
    _, measured = _benchmark(encoder, 0.001, 0.001)

    ratio = ratio_between(measured[0], measured[1])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.0, 1.0, 1.0))
    assert ratio.verdict == "no difference"


@pytest.mark.parametrize(("other", "verdict"), [(0.0011, "slower"), (0.0009, "faster")])
def test_a_tenth_is_found_in_either_direction(encoder: TextEncoder, other: float, verdict: str) -> None:
    """A harness that averages everything away finds nothing."""
    _, measured = _benchmark(encoder, 0.001, other)

    ratio = ratio_between(measured[0], measured[1])
    assert ratio.value == pytest.approx(0.001 / other)
    assert ratio.verdict == verdict


def test_a_machine_that_slows_down_moves_both_sides_alike(encoder: TextEncoder) -> None:
    """Timed one after the other, the second variant would pay for the heat of the first."""
    machine = FakeMachine()
    variants = [machine.changing(name, lambda calls: 0.001 * (1 + calls / 500)) for name in ("a", "b")]

    measured = run_benchmark(variants, encoder, make_texts(20), batch_sizes=(1,), pace=machine.pace(8))

    ratio, drift = ratio_between(*measured), find_drift(measured)
    assert ratio.low < 1 < ratio.high
    assert ratio.verdict != "faster"
    assert drift is not None
    assert drift.is_seen
    assert drift.change > 0.2


def test_variants_take_turns_in_changing_order(encoder: TextEncoder) -> None:
    """One after the other, a machine that heats up would punish the last one."""
    machine, _ = _benchmark(encoder, 0.001, 0.001, 0.001, rounds=6)

    per_round = 3 * (20 + 1)
    at_batch_one = machine.calls[2 * per_round :]  # two warm-up passes each
    assert {at_batch_one[number * per_round] for number in range(6)} == {"v0", "v1", "v2"}


@pytest.mark.parametrize("num_variants", [1, 2, 3, 5])
def test_no_variant_is_skipped_and_each_comes_early_as_often_as_late(num_variants: int) -> None:
    """A variant that always ran last would always find the machine at its hottest."""
    orders = [turns(num_variants, number) for number in range(2 * num_variants)]

    assert all(sorted(order) == list(range(num_variants)) for order in orders)
    mean_places = [sum(order.index(variant) for order in orders) for variant in range(num_variants)]
    assert len(set(mean_places)) == 1
    for first, second in combinations(range(num_variants), 2):
        leads = [order.index(first) < order.index(second) for order in orders]
        assert sum(leads) == num_variants  # in half of the rounds: what one leaves behind the other finds as often


def test_measurements_come_batch_size_by_batch_size(encoder: TextEncoder) -> None:
    """Rows under the wrong variant's name."""
    _, measured = _benchmark(encoder, 0.001, 0.002)

    assert [(m.variant, m.batch_size) for m in measured] == [("v0", 1), ("v1", 1), ("v0", 8), ("v1", 8)]
    assert measured[1].p50_ms == pytest.approx(2 * measured[0].p50_ms)


def test_a_quick_look_finds_the_faster_one(encoder: TextEncoder) -> None:
    """The default artifact is chosen by it."""
    work = np.random.default_rng(0).normal(size=(300, 300))

    def slow(inputs: Inputs) -> Logits:
        for _ in range(5):
            work @ work
        return {}

    seconds = time_alone({"slow": slow, "fast": lambda inputs: {}}, encoder, make_texts(4))

    assert seconds["fast"] < seconds["slow"]


def test_threads_of_torch_are_put_back() -> None:
    """A variant that leaves one thread behind slows every later one."""
    before = torch.get_num_threads()

    with torch_threads(before + 1)():
        assert torch.get_num_threads() == before + 1

    assert torch.get_num_threads() == before


def test_progress_is_told_for_every_turn(encoder: TextEncoder) -> None:
    """A bar that stops short of its end looks like a hang."""
    machine = FakeMachine()
    told: list[None] = []
    variants = [machine.variant("a", 0.1), machine.variant("b", 0.1)]

    run_benchmark(variants, encoder, make_texts(3), pace=machine.pace(4), advance=lambda: told.append(None))

    assert len(told) == 2 * 2 * (4 + 1)


@pytest.mark.parametrize(("num_texts", "batch_size"), [(0, 1), (3, 0)])
def test_nothing_to_measure_is_told(encoder: TextEncoder, num_texts: int, batch_size: int) -> None:
    """An empty table instead of an error."""
    with pytest.raises(UserError, match="cannot measure"):
        make_batches(encoder, make_texts(num_texts), batch_size)


@pytest.mark.slow
def test_with_the_real_clock_a_tenth_is_found_and_nothing_is_not(encoder: TextEncoder) -> None:
    """What holds for a fake clock may drown in a real machine's noise."""

    def sleeping(name: str, seconds: float) -> Variant:
        def run(inputs: Inputs) -> Logits:
            until = time.perf_counter() + seconds
            time.sleep(0.8 * seconds)
            while time.perf_counter() < until:
                pass
            return {}

        return Variant(name, "onnxruntime", "fp32", "cpu", 1, run)

    variants = [sleeping("first", 0.004), sleeping("same", 0.004), sleeping("slower", 0.0044)]
    measured = run_benchmark(variants, encoder, make_texts(25), batch_sizes=(1,), pace=Pace(rounds=12))

    assert ratio_between(measured[0], measured[1]).verdict == "no difference"
    assert ratio_between(measured[0], measured[2]).verdict == "slower"
    assert ratio_between(measured[0], measured[2]).value == pytest.approx(1 / 1.1, abs=0.03)
