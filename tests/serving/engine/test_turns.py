"""What a lane takes and with which company, what it counts of that, and what others learn from it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import serving.engine.crew
import serving.engine.lanes
from serving.engine.contract import Answered, Expired, LaneFailed, Overloaded
from serving.engine.lanes import STALL_FACTOR, perform
from serving.engine.orders import Order
from serving.engine.schedule import Scheduler
from serving.engine.tickets import Item, Ticket
from tests.serving.engine.stage import MERGING, Holding, Stage, ending, fail_on_two_words, play, wait_for, wake

Set = Callable[..., Stage]


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
        assert (load.running, load.queued_texts, load.queued_tokens) == (2, 1, 1), "its length is known by now"
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
        stage.crew.fail_all(LaneFailed("the test is over"))
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


def test_a_request_queues_until_its_first_text_runs(set_stage: Set) -> None:
    """Whoever looks for what is slow would look at the queue where it is the model."""
    holding = Holding()
    stage = set_stage(holding)

    async def scene() -> None:
        orders = [stage.ask("text", "text"), stage.ask("text")]
        for _ in range(3):
            _, release = holding.next_call()
            stage.clock.now += 0.01
            release.set()
        assert [(await ending(order)).queue_seconds for order in orders] == pytest.approx([0.0, 0.02])

    play(scene)


def test_a_shared_call_counts_for_each_request_in_it(set_stage: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole for each text, the model would seem to work longer than the server has run; or company never to queue."""

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
        stage.clock.now += 2.0
        release.set()
        holding.next_call()[1].set()
        answers = [await ending(order) for order in (first, *orders)]
        assert [answered.run_seconds for answered in answers] == [6.0, 2.0, 4.0]
        assert [answered.queue_seconds for answered in answers] == [0.0, 2.0, 2.0]

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
    assert stage.crew.counters["tokens_run"] == 400


def test_a_request_can_be_dropped_until_its_answer_is_on_its_way(set_stage: Set) -> None:
    """A caller whose deadline crosses with the answer would be told that it expired, and count twice."""
    holding = Holding()
    stage = set_stage(holding)

    async def scene() -> None:
        answered, dropped = stage.ask("text"), stage.ask("text")
        assert stage.crew.drop(dropped, "requests_expired")
        holding.next_call()[1].set()
        wait_for(lambda: answered.is_settled)  # the event loop stands still: it has not heard of it yet
        assert not stage.crew.drop(answered, "requests_expired")
        assert not stage.crew.drop(dropped, "requests_expired")
        assert isinstance(await ending(answered), Answered)

    play(scene)
    counters = stage.crew.counters
    assert (counters["requests_answered"], counters["requests_expired"]) == (1, 1)


def test_a_call_that_is_long_by_nature_does_not_hang(set_stage: Set) -> None:
    """With the setting alone, every text of a large model would cost a lane."""
    holding = Holding()
    stage = set_stage(holding, costs=MERGING)

    async def scene() -> None:
        order = stage.ask("text")
        _, release = holding.next_call()
        stage.clock.leap(0.9 * STALL_FACTOR * MERGING.seconds(1, 1))
        release.set()
        assert isinstance(await ending(order), Answered)

    play(scene)


@pytest.fixture
def num_left() -> Iterator[Callable[[], int]]:
    """How many requests, with their texts, are in memory; nothing is collected meanwhile."""
    gc.disable()
    yield lambda: sum(isinstance(thing, Order | Ticket | Item) for thing in gc.get_objects())
    gc.enable()


def test_requests_that_have_ended_leave_no_circle_behind(
    set_stage: Set, num_left: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    """The server looks for circles seldom: each would keep its texts, and its bundle after a swap, for minutes."""
    # What is captured keeps exceptions, and with them whatever they saw. The logger itself: the level of one above it
    # may have been set in this process, and would hold for it.
    caplog.set_level(logging.CRITICAL, logger=serving.engine.lanes.__name__)
    stage = set_stage(fail_on_two_words)

    async def scene() -> None:
        before = num_left()
        for texts in (["text"], ["text"] * 9, ["bad text"]):
            await ending(stage.ask(*texts))
        wait_for(lambda: num_left() <= before)

    play(scene)


@pytest.mark.parametrize("why", ["nobody waits", "its time is over"])
def test_what_an_idle_lane_was_given_is_not_run_in_vain(set_stage: Set, why: str) -> None:
    """Between the door and the lane's first step the client may leave, and the deadline may come."""
    stage = set_stage(lambda input_ids: None)

    async def scene() -> None:
        wait_for(lambda: stage.crew._idle)
        order = stage.order("text", patience=1.0)
        lanes = stage.crew.submit(order)
        load = stage.crew.load()
        assert (load.running, load.queued_texts, load.queued_tokens) == (1, 0, 0)
        if why == "nobody waits":
            assert stage.crew.drop(order, "requests_cancelled")
        else:
            stage.clock.now += 1.0
        wake(lanes)
        if why != "nobody waits":
            assert isinstance(await ending(order), Expired)
        wait_for(lambda: stage.crew._idle)
        assert stage.crew.load().running == 0
        assert stage.trouble.num_calls == 0
        assert isinstance(await ending(stage.ask("text")), Answered)

    play(scene)
    counters = stage.crew.counters
    assert (counters["requests_cancelled"], counters["requests_expired"]) == (
        (1, 0) if why == "nobody waits" else (0, 1)
    )
    assert counters["calls"] == stage.trouble.num_calls == 1


def test_a_lane_that_is_given_a_call_on_its_way_to_sleep_is_woken_once(set_stage: Set) -> None:
    """A wake-up too many breaks the next request's; one too few leaves this one lying."""
    stage = set_stage(lambda input_ids: None)

    async def scene() -> None:
        for _ in range(300):
            assert isinstance(await ending(stage.ask("text")), Answered)

    play(scene)
    assert stage.crew.counters["calls"] == 300
    assert stage.crew.counters["lanes_replaced"] == 0


def test_a_crew_that_stops_runs_nothing_that_a_lane_was_given(set_stage: Set) -> None:
    """Its request was ended before: the end of the process would wait for a call for nobody."""
    stage = set_stage(lambda input_ids: None)

    async def scene() -> None:
        wait_for(lambda: stage.crew._idle)
        lanes = stage.crew.submit(stage.order("text"))
        stage.crew.fail_all(LaneFailed("the end"))
        stage.crew.stop(join_seconds=0.0)
        wake(lanes)
        for lane in lanes:
            lane.thread.join(20)

    play(scene)
    assert stage.trouble.num_calls == 0


def test_a_text_that_starts_at_once_leaves_the_scheduler_as_one_that_waited() -> None:
    """What the door promises later ones must not depend on the way that this one took."""
    found: list[list[float]] = []
    for is_at_once in (True, False):
        scheduler = Scheduler(lanes=2)
        scheduler.learn_anew(MERGING)
        ticket = Ticket.of([10], 1e9, "model", MERGING)
        if is_at_once:
            scheduler.start_at_once(ticket.items[0], 5.0)
        else:
            scheduler.add(ticket)
            assert scheduler.take(5.0) == (ticket.items[0], [])
        other = Ticket.of([20] * 10, 7.0, "model", MERGING)
        small = Ticket.of([20], 7.0, "model", MERGING)
        state = scheduler.queued_texts, scheduler.queued_tokens, scheduler.running, scheduler.wait_seconds
        found.append([*state, scheduler.lateness(other, 6.0), scheduler.lateness(small, 6.0)])
        assert scheduler.drop(ticket) == 0
        scheduler.finish(ticket.items, 1.0)
        found[-1] += [scheduler.running, scheduler.wait_seconds, scheduler.pace]
    assert found[0] == found[1]


def test_a_text_goes_past_no_other_that_waits(set_stage: Set) -> None:
    """Lanes that were woken have not taken theirs yet: one that comes later, or is due later, is not to be first."""
    stage = set_stage(lambda input_ids: None, lanes=4)

    async def scene() -> None:
        wait_for(lambda: len(stage.crew._idle) == 4)
        first, second = stage.order("text", "text", "text"), stage.order("text")
        lanes = [*stage.crew.submit(first), *stage.crew.submit(second)]
        assert len(lanes) == 4
        load = stage.crew.load()
        assert (load.running, load.queued_texts) == (0, 4)
        wake(lanes)
        assert [type(await ending(order)) for order in (first, second)] == [Answered, Answered]

    play(scene)
