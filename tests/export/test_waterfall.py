"""The waterfall's arithmetic with a clock that only work moves, and its three ways of answering texts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from export.runners import Inputs, Logits
from export.waterfall import (
    Model,
    Step,
    StepResult,
    Way,
    count_passes,
    in_batches,
    in_lanes,
    measure_waterfall,
    pad_whole,
    padded,
)
from serving.tokenise import TextEncoder
from tests.export.benchmark.conftest import FakeMachine
from tests.export.conftest import MAX_LENGTH, make_texts


class Workshop(FakeMachine):
    """A fake machine with a CPU clock and ways that take a set time per text."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu = 0.0

    def way(self, label: str, seconds_per_text: float, *, num_texts: int = 10, busy_cpus: float = 1.0) -> Way:
        """A way that keeps so many CPUs busy."""

        def work() -> None:
            self.calls.append(label)
            self.now += seconds_per_text * num_texts
            self.cpu += busy_cpus * seconds_per_text * num_texts

        return Way(label, work, num_texts)

    def measure(self, *steps: Step, rounds: int = 6, baseline: str = "torch") -> list[StepResult]:
        """The steps' results."""
        return measure_waterfall(steps, pace=self.pace(rounds), baseline=baseline, cpu_clock=lambda: self.cpu)


def _steps(shop: Workshop) -> list[Step]:
    return [
        Step("padded", "teacher", [shop.way("padded", 0.8, num_texts=2)]),
        Step("torch", "teacher", [shop.way("eager", 0.25), shop.way("sdpa", 0.2)]),
        Step("int8", "int8", [shop.way("batch 1", 0.05, busy_cpus=1.5), shop.way("batch 8", 0.1)]),
    ]


def test_factors_are_over_the_step_before_the_start_and_the_baseline() -> None:
    """A factor against the wrong step is the oldest way to sell a speed-up."""
    shop = Workshop()
    padded_step, best, int8 = shop.measure(*_steps(shop))

    assert (padded_step.factor, padded_step.overall) == (None, None)
    assert padded_step.over_baseline is not None
    assert padded_step.over_baseline.value == pytest.approx(0.25)
    assert best.factor is not None
    assert best.factor.value == pytest.approx(4)
    assert best.over_baseline is None
    assert int8.factor is not None
    assert int8.overall is not None
    assert int8.over_baseline is not None
    assert (int8.factor.value, int8.overall.value, int8.over_baseline.value) == pytest.approx((4, 16, 4))
    assert int8.factor.confidence > 0.95


def test_the_fastest_way_is_taken_and_the_others_are_told() -> None:
    """Torch at its worst batch size makes any student look good."""
    shop = Workshop()
    _, best, int8 = shop.measure(*_steps(shop))

    assert (best.way, int8.way) == ("sdpa", "batch 1")
    assert best.tried == pytest.approx({"eager": 4.0, "sdpa": 5.0})
    assert best.texts_per_second == pytest.approx(5.0)


def test_cpu_time_is_paid_for_by_the_text() -> None:
    """Two threads that halve the wall time save no money."""
    shop = Workshop()
    result = shop.measure(*_steps(shop))[2]

    assert result.cpu_seconds_per_text == pytest.approx(0.075)
    assert result.cpu_hours_per_million == pytest.approx(0.075 * 1e6 / 3600)


def test_figures_come_from_new_rounds_and_not_from_the_trials() -> None:
    """The fastest of many trials is fast by luck as well; its luck does not last."""
    shop = Workshop()
    lucky = iter([0.1, 1.0, *[1.0] * 20])

    def work() -> None:
        shop.now += next(lucky)

    steps = [Step("torch", "teacher", [Way("lucky", work, 1), shop.way("even", 0.9, num_texts=1)])]
    (result,) = shop.measure(*steps)

    assert result.way == "lucky"
    assert result.tried["lucky"] == pytest.approx(10)
    assert result.texts_per_second == pytest.approx(1.0)


def test_steps_take_turns_and_progress_is_told_for_every_pass() -> None:
    """One after the other, the last step would have the hottest machine."""
    shop = Workshop()
    told: list[None] = []
    steps = _steps(shop)
    measure_waterfall(
        steps, pace=shop.pace(6), baseline="torch", cpu_clock=lambda: shop.cpu, advance=lambda: told.append(None)
    )

    in_rounds = shop.calls[2 * 5 :]
    assert len(told) == count_passes(steps, 6) == len(shop.calls)
    assert {in_rounds[start] for start in range(0, 18, 3)} == {"padded", "sdpa", "batch 1"}


def test_a_way_is_run_within_its_turn() -> None:
    """Eager attention timed while sdpa is set, under eager's name."""
    shop = Workshop()
    entered: list[str] = []

    def turn(name: str) -> Callable[[], AbstractContextManager[None]]:
        @contextmanager
        def enter() -> Any:
            entered.append(name)
            yield
            entered.remove(name)

        return enter

    def way(name: str) -> Way:
        def work() -> None:
            assert entered == [name]
            shop.now += 1.0

        return Way(name, work, 1, turn(name))

    shop.measure(Step("torch", "teacher", [way("a"), way("b")]), rounds=3)


class Recorder:
    """A model that remembers what it was asked."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.masks = 0
        self.threads: set[int] = set()
        self.answered = 0
        self.model = Model(self.run, encoder, self.answer)

    def run(self, inputs: Inputs) -> Logits:
        """Remember a batch."""
        self.shapes.append(inputs["input_ids"].shape)
        self.masks += int(inputs["attention_mask"].sum())
        self.threads.add(threading.get_ident())
        return {}

    def answer(self, logits: Logits) -> None:
        """Remember that it was answered."""
        self.answered += 1


@pytest.fixture
def recorder(encoder: TextEncoder) -> Recorder:
    """A fresh one."""
    return Recorder(encoder)


def test_every_way_answers_all_tokens_of_all_texts(recorder: Recorder, encoder: TextEncoder) -> None:
    """A way that leaves the last batch out is fast."""
    texts = make_texts(21)
    tokens = sum(len(encoding) for encoding in encoder.encode(texts))
    models = [recorder.model]
    for work in (in_batches(models, texts, 8), padded(models, texts, 8), in_lanes(recorder.model, texts, 8, lanes=3)):
        recorder.shapes, recorder.masks, recorder.answered = [], 0, 0
        work()
        assert sum(shape[0] for shape in recorder.shapes) == 21
        assert recorder.masks == tokens
        assert recorder.answered == 3


def test_several_teachers_answer_one_after_the_other(encoder: TextEncoder) -> None:
    """A student that replaces three teachers is compared with one of them."""
    recorders = [Recorder(encoder), Recorder(encoder)]

    in_batches([one.model for one in recorders], make_texts(5), 5)()

    assert [one.answered for one in recorders] == [1, 1]


def test_the_padded_way_pads_to_the_whole_length_and_hides_it(recorder: Recorder) -> None:
    """Padding that the mask does not hide would change the answers, and be slower by the truth."""
    padded([recorder.model], make_texts(9), 8)()

    assert recorder.shapes == [(8, MAX_LENGTH), (1, MAX_LENGTH)]


def test_padding_uses_the_models_own_ids(encoder: TextEncoder) -> None:
    """A pad id of another model is a word of this one."""
    inputs = {
        "input_ids": np.array([[2, 7, 3]]),
        "attention_mask": np.array([[1, 1, 1]]),
        "token_type_ids": np.array([[0, 0, 1]]),
    }
    whole = pad_whole(inputs, replace(encoder.inputs, pad_id=9, pad_token_type_id=4, max_length=5))

    assert whole["input_ids"].tolist() == [[2, 7, 3, 9, 9]]
    assert whole["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]
    assert whole["token_type_ids"].tolist() == [[0, 0, 1, 4, 4]]


def test_lanes_work_at_the_same_time(encoder: TextEncoder) -> None:
    """Lanes that wait for one another are one lane under another name."""
    together = threading.Barrier(3, timeout=10)

    def run(inputs: Inputs) -> Logits:
        together.wait()
        return {}

    in_lanes(Model(run, encoder, lambda logits: None), make_texts(6), 1, lanes=3)()


def test_a_failing_lane_fails_the_measurement(encoder: TextEncoder) -> None:
    """An error swallowed by a thread pool is the fastest lane of all."""

    def run(inputs: Inputs) -> Logits:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        in_lanes(Model(run, encoder, lambda logits: None), make_texts(6), 1, lanes=2)()
