"""The crew's lanes when calls fail, hang or end: real threads, and a clock that only the test moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import serving.engine.crew
from serving.engine.contract import Answered, Expired, LaneFailed, Overloaded
from serving.engine.crew import LOSSES_PER_LANE
from serving.engine.lanes import perform
from tests.serving.engine.stage import MERGING, Holding, Stage, ending, play, wait_for, wake

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
            assert isinstance(await ending(order), LaneFailed)

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


def test_a_call_of_several_texts_may_take_the_time_of_all(set_stage: Set) -> None:
    """Given up after the time of one of them, every large merged call would be a hang."""
    holding = Holding()
    stage = set_stage(holding, costs=MERGING)

    async def scene() -> None:
        first = stage.ask("text")
        _, release_first = holding.next_call()
        orders = [stage.ask("text"), stage.ask("text")]
        release_first.set()
        assert isinstance(await ending(first), Answered)
        _, release = holding.next_call()
        assert stage.crew.load().running == 2
        stage.clock.leap(75.0)
        release.set()
        assert [type(await ending(order)) for order in orders] == [Answered, Answered]

    play(scene)
    assert stage.crew.counters["calls_merged"] == 1
    assert stage.crew.counters["lanes_replaced"] == 0


def test_texts_are_left_for_lanes_that_have_nothing_to_do(set_stage: Set) -> None:
    """One lane that takes all company leaves the others idle, and every text waits for the longest call."""
    holding = Holding()
    stage = set_stage(holding, lanes=2, costs=MERGING)

    async def scene() -> None:
        wait_for(lambda: len(stage.crew._idle) == 2)
        order = stage.order("text", "text", "text")
        first, second = stage.crew.submit(order)
        first.wake()
        releases = [holding.next_call()[1]]
        load = stage.crew.load()
        assert (load.running, load.queued_texts) == (2, 1)
        second.wake()
        releases.append(holding.next_call()[1])
        for release in releases:
            release.set()
        assert isinstance(await ending(order), Answered)

    play(scene)
    assert stage.crew.counters["calls_merged"] == 1


def test_what_expires_while_it_waits_is_told_by_the_lane_that_finds_it(set_stage: Set) -> None:
    """The scheduler has forgotten it by then: nobody else would ever tell its caller."""
    holding = Holding()
    stage = set_stage(holding)

    async def scene() -> None:
        first = stage.ask("text")
        _, release = holding.next_call()
        late = stage.order("text", patience=1.0)
        wake(stage.crew.submit(late))
        stage.clock.now += 1.0
        release.set()
        assert isinstance(await ending(first), Answered)
        assert isinstance(await ending(late), Expired)

    play(scene)
    assert stage.crew.counters["requests_expired"] == 1
    assert stage.crew.load().requests == 0


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


def test_refused_requests_are_counted_as_what_they_are(set_stage: Set) -> None:
    """Expired ones that count as overload would have somebody buy machines for clients with wrong clocks."""
    holding = Holding()
    stage = set_stage(holding)

    def submit_many() -> None:
        for _ in range(100):
            stage.crew.submit(stage.order("text", patience=0.01))

    async def scene() -> None:
        with pytest.raises(Expired):
            stage.crew.submit(stage.order("text", patience=-1.0))
        stage.ask("text")
        _, release = holding.next_call()
        with pytest.raises(Overloaded):
            submit_many()
        release.set()

    play(scene)
    counters = stage.crew.counters
    assert (counters["requests_expired"], counters["requests_overloaded"]) == (1, 1)


def test_as_many_lanes_are_woken_as_there_are_texts(set_stage: Set) -> None:
    """Fewer leave texts waiting beside idle lanes; more cost every request the wake-ups of lanes that find nothing."""
    stage = set_stage(lambda input_ids: None, lanes=4)

    async def scene() -> None:
        for num_texts, num_woken in ((1, 1), (3, 3), (9, 4)):
            wait_for(lambda: len(stage.crew._idle) == 4)
            order = stage.order(*["text"] * num_texts)
            woken = stage.crew.submit(order)
            assert len(set(woken)) == num_woken
            wake(woken)
            assert isinstance(await ending(order), Answered)

    play(scene)


def test_the_seconds_of_a_shared_call_are_shared(set_stage: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted once for each text, the model would seem to work for longer than the server has run."""

    def perform_in_six_seconds(call: Any) -> Any:
        outcome = perform(call)
        outcome.seconds = 6.0
        return outcome

    monkeypatch.setattr(serving.engine.crew, "perform", perform_in_six_seconds)
    holding = Holding()
    stage = set_stage(holding, costs=MERGING)

    async def scene() -> None:
        first = stage.ask("text")
        _, release = holding.next_call()
        orders = [stage.ask("text"), stage.ask("text", "text")]
        release.set()
        holding.next_call()[1].set()
        assert [(await ending(order)).run_seconds for order in (first, *orders)] == [6.0, 2.0, 4.0]

    play(scene)


def test_lengths_are_learnt_from_answers(set_stage: Set) -> None:
    """The first guess is for English prose: for another language every prediction would be wrong for ever."""
    stage = set_stage(lambda input_ids: None)
    text = " ".join("abcdefgh" * 5)

    async def scene() -> None:
        guess = stage.order(text).ticket.items[0].tokens
        for _ in range(10):
            assert (await ending(stage.ask(text))).tokens == [40]
        assert guess < 30 < stage.order(text).ticket.items[0].tokens <= 40

    play(scene)
