"""When calls of the model fail: whose fault it is, who is told, and what it teaches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from serving.engine.contract import Answered, LaneFailed
from serving.engine.orders import Order
from serving.engine.served import FAILURES_BEFORE_PROBE
from tests.serving.engine.stage import MERGING, WAIT_SECONDS, Holding, Stage, ending, fail_on_two_words, play, wait_for

Set = Callable[..., Stage]


def test_requests_that_wait_are_told_when_the_model_is_broken(set_stage: Set) -> None:
    """No lane will ever come to them: each would wait for its deadline, though all is known."""
    may_fail = threading.Event()

    def fail(input_ids: Any) -> None:
        may_fail.wait(WAIT_SECONDS)
        raise RuntimeError("device lost")

    stage = set_stage(fail)

    async def scene() -> None:
        orders = [stage.ask("text") for _ in range(3 * FAILURES_BEFORE_PROBE)]
        may_fail.set()
        assert {type(await ending(order)) for order in orders} == {LaneFailed}
        assert stage.crew.counters["calls"] == FAILURES_BEFORE_PROBE
        with pytest.raises(LaneFailed):
            stage.ask("text")
        wait_for(lambda: stage.crew.load().lanes_alive == 0)

    play(scene)


def test_answers_between_failures_spare_the_probe(set_stage: Set) -> None:
    """Clients' bad texts, spread over a day, would cost honest requests a call of the model each few times."""
    stage = set_stage(fail_on_two_words)
    few, many = FAILURES_BEFORE_PROBE // 2, FAILURES_BEFORE_PROBE - 1
    texts = [*["bad text"] * many, "good", *["bad text"] * few, "good", *["bad text"] * few, "good"]

    async def scene() -> None:
        for text in texts:
            await ending(stage.ask(text))

    play(scene)
    assert stage.trouble.num_calls == len(texts)


def test_bad_texts_alone_cost_one_probe_for_so_many(set_stage: Set) -> None:
    """A probe after each of them is twice the load, for whoever sends nothing else."""
    stage = set_stage(fail_on_two_words)

    async def scene() -> None:
        for _ in range(3 * FAILURES_BEFORE_PROBE - 1):
            await ending(stage.ask("bad text"))

    play(scene)
    assert stage.trouble.num_calls == 3 * FAILURES_BEFORE_PROBE - 1 + 2
    assert not stage.crew.has_failed


@pytest.mark.parametrize("sizes", [(7, 1), (1, 7), (3, 5)])
def test_each_text_of_a_failed_call_counts(set_stage: Set, sizes: tuple[int, int]) -> None:
    """Where texts share calls, a broken model would be found eight times later, or never."""
    holding = Holding()

    def act(input_ids: Any) -> None:
        if not has_failed.is_set():
            holding(input_ids)
            return
        raise RuntimeError("device lost")

    has_failed = threading.Event()
    stage = set_stage(act, costs=MERGING)

    async def scene() -> None:
        assert sum(sizes) == FAILURES_BEFORE_PROBE
        held = stage.ask("text")
        _, release = holding.next_call()
        first, second = (["text"] * size for size in sizes)
        order = stage.ask(*first)
        has_failed.set()
        release.set()
        assert isinstance(await ending(held), Answered)
        assert isinstance(await ending(order), LaneFailed)
        assert not stage.crew.has_failed
        assert isinstance(await ending(stage.ask(*second)), LaneFailed)

    play(scene)
    assert stage.crew.has_failed


def test_what_a_failed_call_took_teaches_the_door_nothing(set_stage: Set) -> None:
    """A failure at once, or after a minute, says nothing of answers: requests would be let in or refused wrongly."""
    stage = set_stage(fail_on_two_words)

    async def scene() -> None:
        assert isinstance(await ending(stage.ask("bad text")), LaneFailed)
        assert stage.scheduler.pace == 1.0
        assert isinstance(await ending(stage.ask("good")), Answered)
        assert stage.scheduler.pace < 1.0, "on a clock that stands still every answer is a fast one"

    play(scene)


def test_a_broken_model_is_not_mended_by_an_answer_that_was_under_way(set_stage: Set) -> None:
    """The engine would be ready again with one lane less, and its liveness probe content."""
    holding = Holding()

    def act(input_ids: Any) -> None:
        if input_ids.shape[1] == 3:
            holding(input_ids)
            return
        raise RuntimeError("device lost")

    stage = set_stage(act, lanes=2)

    async def scene() -> None:
        held = stage.ask("under way already")
        thread, release = holding.next_call()
        for _ in range(FAILURES_BEFORE_PROBE):
            assert isinstance(await ending(stage.ask("text")), LaneFailed)
        assert isinstance(await ending(held), LaneFailed)
        release.set()
        thread.join(WAIT_SECONDS)

    play(scene)
    assert stage.crew.has_failed
    assert (stage.crew.load().running, stage.crew.counters["requests_answered"]) == (0, 0)


def test_a_failure_that_nobody_waits_for_counts_as_no_answer(set_stage: Set) -> None:
    """Clients that hang up on a broken model would make it look as if it worked."""
    holding = Holding()

    def act(input_ids: Any) -> None:
        holding(input_ids)
        fail_on_two_words(input_ids)

    stage = set_stage(act)

    async def scene() -> None:
        left = stage.ask("bad text")
        _, release = holding.next_call()
        assert stage.crew.drop(left, "requests_cancelled")
        release.set()
        order = stage.ask("good")
        holding.next_call()[1].set()
        assert isinstance(await ending(order), Answered)

    play(scene)
    counters = stage.crew.counters
    assert (counters["calls"], counters["texts_run"], counters["requests_failed"]) == (2, 1, 0)


def test_an_answer_that_cannot_be_put_together_is_a_failure(set_stage: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no memory for a long list's rows its caller would never hear of it: the order counts as settled."""

    def refuse(order: Order) -> None:
        raise MemoryError

    stage = set_stage(lambda input_ids: None)

    async def scene() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Order, "answered", refuse)
            end = await ending(stage.ask("text", "text"))
        assert (type(end), str(end)) == (LaneFailed, "the answer could not be put together (MemoryError)")
        assert isinstance(await ending(stage.ask("text")), Answered)

    play(scene)
    counters = stage.crew.counters
    assert (counters["requests_failed"], counters["requests_answered"], counters["lanes_replaced"]) == (1, 1, 0)
