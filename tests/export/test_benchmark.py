"""The benchmark harness, with a clock that only variants move."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.benchmark import (
    Measurement,
    Pace,
    Variant,
    compare_variants,
    make_batches,
    run_benchmark,
    time_alone,
    torch_threads,
)
from export.runners import Inputs, Logits
from serving.errors import UserError
from serving.tokenise import TextEncoder
from tests.export.conftest import make_texts


class FakeMachine:
    """A clock, and variants that take a set time per token; pauses pass too."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def variant(self, name: str, seconds_per_token: float) -> Variant:
        """A variant whose calls last as long as their tokens ask."""

        def run(inputs: Inputs) -> Logits:
            self.calls.append(name)
            self.now += seconds_per_token * inputs["input_ids"].size
            return {}

        return Variant(name, "onnxruntime", "fp32", "cpu", 1, run)

    def pace(self, rounds: int) -> Pace:
        """Rounds by this clock, with a pause before each turn."""
        return Pace(rounds=rounds, settle_seconds=7.0, clock=self.clock, sleep=self.sleep)


def _benchmark(
    encoder: TextEncoder, *seconds_per_token: float, rounds: int = 6, num_texts: int = 20
) -> tuple[FakeMachine, list[Measurement]]:
    machine = FakeMachine()
    variants = [machine.variant(f"v{place}", seconds) for place, seconds in enumerate(seconds_per_token)]
    texts = make_texts(num_texts)
    measured = run_benchmark(variants, encoder, texts, batch_sizes=(1, 8), pace=machine.pace(rounds))
    return machine, measured


def test_only_the_calls_are_timed(encoder: TextEncoder) -> None:
    """Pauses, warm-up or tokenisation inside the timing would drown a small model."""
    _, measured = _benchmark(encoder, 0.001)

    lengths = sorted(len(encoding) for encoding in encoder.encode(make_texts(20)))
    assert measured[0].p50_ms == pytest.approx(float(np.median(lengths)))
    assert measured[0].samples == 6 * 20
    assert measured[0].texts_per_second == pytest.approx(20 / (sum(lengths) * 0.001))


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


def test_batches_are_padded_to_their_own_longest_only(encoder: TextEncoder) -> None:
    """Padding everything to the longest text would sell padding as compression."""
    texts = make_texts(20)
    lengths = sorted(len(encoding) for encoding in encoder.encode(texts))

    widths = [batch["input_ids"].shape for batch in make_batches(encoder, texts, 8)]

    assert widths == [(8, lengths[7]), (8, lengths[15]), (4, lengths[19])]


def test_a_variant_against_itself_shows_no_difference(encoder: TextEncoder) -> None:
    """An order effect would make the first or the last variant look fast."""
    _, measured = _benchmark(encoder, 0.001, 0.001)

    assert compare_variants(measured[0], measured[1]) == pytest.approx((1.0, 1.0, 1.0))


def test_a_tenth_is_found(encoder: TextEncoder) -> None:
    """A harness that averages everything away finds nothing."""
    _, measured = _benchmark(encoder, 0.0011, 0.001)

    assert compare_variants(measured[0], measured[1]) == pytest.approx((1.1, 1.1, 1.1))


def test_variants_take_turns_in_changing_order(encoder: TextEncoder) -> None:
    """One after the other, a machine that heats up would punish the last one."""
    machine, _ = _benchmark(encoder, 0.001, 0.001, 0.001, rounds=5)

    calls_per_round = 3 * (20 + 1)
    first_of_rounds = machine.calls[: 6 * calls_per_round : calls_per_round]
    assert set(first_of_rounds) == {"v0", "v1", "v2"}


@pytest.mark.parametrize(
    ("num_texts", "rounds", "has_p95", "has_p99"),
    [(20, 4, False, False), (20, 5, True, False), (50, 19, True, False), (50, 20, True, True)],
)
def test_percentiles_stand_only_where_samples_support_them(
    encoder: TextEncoder, num_texts: int, rounds: int, has_p95: bool, has_p99: bool
) -> None:
    """A p99 of forty samples is the maximum under another name."""
    _, measured = _benchmark(encoder, 0.001, num_texts=num_texts, rounds=rounds)

    assert (measured[0].p95_ms is not None, measured[0].p99_ms is not None) == (has_p95, has_p99)


def test_measurements_come_batch_size_by_batch_size(encoder: TextEncoder) -> None:
    """Rows under the wrong variant's name."""
    _, measured = _benchmark(encoder, 0.001, 0.002)

    assert [(m.variant, m.batch_size) for m in measured] == [("v0", 1), ("v1", 1), ("v0", 8), ("v1", 8)]
    assert measured[1].p50_ms == pytest.approx(2 * measured[0].p50_ms)


def test_different_benchmarks_are_not_compared(encoder: TextEncoder) -> None:
    """Rounds that did not run side by side share no weather; their ratio means nothing."""
    _, measured = _benchmark(encoder, 0.001)

    with pytest.raises(ValueError, match="one batch size"):
        compare_variants(measured[0], measured[1])


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
