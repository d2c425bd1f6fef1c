"""Lanes that hang, come back late or end: who is told, who takes their place, and when the engine has failed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import serving.engine.crew
from serving.engine.contract import Answered, LaneFailed
from serving.engine.crew import LOSSES_PER_LANE
from serving.engine.lanes import Lane, perform
from tests.serving.engine.stage import Holding, Stage, ending, play, wait_for, wake

Set = Callable[..., Stage]


@pytest.mark.parametrize("lanes", [1, 2])
def test_calls_that_come_back_too_late_again_and_again_are_a_failed_engine(set_stage: Set, lanes: int) -> None:
    """No thread stays hung, every lane is alive, and yet nobody gets an answer: no probe would ever see it."""
    holding = Holding()
    stage = set_stage(holding, lanes)

    async def scene() -> None:
        for _ in range(LOSSES_PER_LANE * lanes + 1):
            assert not stage.crew.has_failed
            order = stage.ask("text")
            holding.lose_call(stage.clock)
            end = await ending(order)
            assert (type(end), str(end)) == (LaneFailed, "the model did not come back in time")

    play(scene)
    assert stage.crew.has_failed
    assert stage.crew.counters["lane_hangs"] == stage.crew.counters["lanes_replaced"] == LOSSES_PER_LANE * lanes + 1


def test_late_calls_with_answers_between_them_are_no_failed_engine(set_stage: Set) -> None:
    """One slow text a day would restart the server after some days."""
    holding = Holding()
    stage = set_stage(holding)

    async def scene() -> None:
        for _ in range(2):
            for _ in range(LOSSES_PER_LANE):
                stage.ask("text")
                holding.lose_call(stage.clock)
            order = stage.ask("text")
            holding.next_call()[1].set()
            assert isinstance(await ending(order), Answered)

    play(scene)
    load = stage.crew.load()
    assert not stage.crew.has_failed
    assert (load.running, load.requests, load.lanes_alive) == (0, 0, 1), "what comes back late counts nowhere"
    assert load.counters["calls"] == 2


def test_more_hung_threads_than_lanes_are_a_failed_engine(set_stage: Set) -> None:
    """Each keeps a CPU and memory busy, for as long as the process lives."""
    holding = Holding()
    stage = set_stage(holding, lanes=2)

    async def scene() -> None:
        orders = [stage.ask("text") for _ in range(2)]
        releases = [holding.next_call()[1] for _ in orders]
        stage.clock.leap()
        load = stage.crew.load()
        assert (stage.crew.has_failed, load.lanes_alive, load.running) == (False, 2, 0)
        orders += [stage.ask("text") for _ in range(5)]
        releases.append(holding.next_call()[1])
        releases.append(holding.next_call()[1])
        stage.clock.leap()
        assert stage.crew.has_failed
        assert {type(await ending(order)) for order in orders} == {LaneFailed}, "those that wait are told too"
        for release in releases:
            release.set()

    play(scene)


def test_hung_threads_that_have_come_back_count_no_more(set_stage: Set) -> None:
    """A disk that was slow for a minute, long ago, would end a server that has answered ever since."""
    holding = Holding()
    stage = set_stage(holding, lanes=2)

    async def scene() -> None:
        for _ in range(3):
            stage.ask("text")
            holding.lose_call(stage.clock)

    play(scene)
    assert not stage.crew.has_failed


def test_a_pause_of_the_process_is_no_hang(set_stage: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is moved, or a frozen container, would give up every lane that was at work."""
    holding = Holding()
    stage = set_stage(holding)
    monkeypatch.setattr(serving.engine.crew, "perf_counter", lambda: stage.clock.now)

    async def scene() -> None:
        order = stage.ask("text")
        _, release = holding.next_call()
        stage.clock.leap(0.0)  # the next look is due by the clock that is paused
        stage.clock.leap(60.0)
        assert stage.crew.counters["lane_hangs"] == 0
        release.set()
        assert isinstance(await ending(order), Answered)

    play(scene)


def test_a_lane_that_broke_is_replaced_and_its_requests_fail(set_stage: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that ends without a word would take a lane with it, and leave its callers to their deadlines."""

    def break_once(call: Any) -> Any:
        monkeypatch.setattr(serving.engine.crew, "perform", perform)
        raise RuntimeError("a mistake of ours")

    stage = set_stage(lambda input_ids: None)
    monkeypatch.setattr(serving.engine.crew, "perform", break_once)

    async def scene() -> None:
        end = await ending(stage.ask("text"))
        assert (type(end), str(end)) == (LaneFailed, "the lane ended")
        assert isinstance(await ending(stage.ask("text")), Answered)

    play(scene)
    load = stage.crew.load()
    assert (load.running, load.requests, load.lanes_alive) == (0, 0, 1)
    assert (load.counters["lanes_replaced"], load.counters["lane_hangs"]) == (1, 0)


def test_a_lane_that_broke_while_idle_is_never_woken(set_stage: Set) -> None:
    """A text that is left to a thread that has ended waits until another lane happens to be free."""
    stage = set_stage(lambda input_ids: None, lanes=2)

    def refuse(*arguments: object) -> None:
        raise MemoryError

    async def scene() -> None:
        unheard = stage.order("text")
        unheard.loop = SimpleNamespace(call_soon_threadsafe=refuse)  # type: ignore[assignment]
        wake(stage.crew.submit(unheard))
        wait_for(lambda: stage.crew.counters["lanes_replaced"])
        order = stage.order("text", "text", "text")
        woken = stage.crew.submit(order)
        assert all(lane.thread.is_alive() for lane in woken)
        wake(woken)
        assert isinstance(await ending(order), Answered)

    play(scene)


def test_a_lane_for_which_no_thread_is_left_comes_at_a_later_look(
    set_stage: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on processes that is met for a moment would cost a lane for ever."""
    holding = Holding()
    stage = set_stage(holding, lanes=2)

    async def scene() -> None:
        stage.ask("text")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", _refuse_a_thread)
            holding.lose_call(stage.clock)
            assert (stage.crew.has_failed, stage.crew.load().lanes_alive) == (False, 1)
        wait_for(lambda: stage.crew.load().lanes_alive == 2)

    play(scene)


def test_an_engine_without_a_lane_and_a_thread_for_one_has_failed(
    set_stage: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content with no lane at all, it would let every request wait for its deadline."""
    holding = Holding()
    stage = set_stage(holding)

    async def scene() -> None:
        orders = [stage.ask("text") for _ in range(3)]
        monkeypatch.setattr(threading.Thread, "start", _refuse_a_thread)
        holding.lose_call(stage.clock)
        assert {type(await ending(order)) for order in orders} == {LaneFailed}

    play(scene)
    assert stage.crew.has_failed


def _refuse_a_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_watchdog_that_breaks_is_a_failed_engine(set_stage: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would replace a lane any more, and no probe would tell."""
    holding = Holding()
    stage = set_stage(holding)

    def break_down(lane: Lane, now: float) -> bool:
        raise MemoryError

    async def scene() -> None:
        order = stage.ask("text")
        _, release = holding.next_call()
        monkeypatch.setattr(Lane, "is_lost", break_down)
        end = await ending(order)
        assert (type(end), str(end)) == (LaneFailed, "nothing watches the lanes any more")
        release.set()

    play(scene)
    assert stage.crew.has_failed


class StopsJustThen(threading.Event):
    """Set by another thread between the end of a wait and whatever the waiting thread does next."""

    def wait(self, timeout: float | None = None) -> bool:
        """False, for the last time."""
        was_set = self.is_set()
        self.set()
        return was_set


def test_lanes_that_end_with_the_engine_are_not_lost(set_stage: Set, caplog: pytest.LogCaptureFixture) -> None:
    """Now and then a clean stop would log an error, count a lost lane, and start a new thread behind the last one."""
    stage = set_stage(lambda input_ids: None, lanes=2)
    stage.crew.stop()
    stage.crew._stop = StopsJustThen()
    stage.crew._watch(0.0)
    assert stage.crew.counters["lanes_replaced"] == 0
    assert caplog.records == []
