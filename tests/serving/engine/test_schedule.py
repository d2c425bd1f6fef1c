"""The scheduler in virtual time: order, fairness, budgets, and an end for everything that comes in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.cost import CostModel
from serving.engine.schedule import LARGE_SHARE, Scheduler
from serving.engine.tickets import SMALL_TEXTS, Item, Ticket

MERGING = CostModel(fixed=0.004, per_token=0.00005, per_square=0.0)
ALONE = CostModel(fixed=0.0005, per_token=0.0001, per_square=0.0, merges=False)
REQUESTS = st.tuples(
    st.floats(0, 0.3),  # arrival
    st.lists(st.integers(1, 600), min_size=1, max_size=12),  # lengths
    st.sampled_from([-0.1, 0.0, 0.003, 0.05, 0.2, 1.0]),  # patience
    st.sampled_from([None, None, None, 0.0, 0.002, 0.04]),  # cancelled after
)
"""Texts up to 600 tokens against a budget of 512: some are above it."""


@settings(max_examples=80)
@given(
    trace=st.lists(REQUESTS, max_size=25),
    lanes=st.integers(1, 3),
    costs=st.sampled_from([MERGING, ALONE]),
    slow=st.sampled_from([0.5, 1.0, 4.0]),
    queue_tokens=st.sampled_from([700, 3000, 10**6]),
)
def test_every_request_ends_once_and_every_text_runs_at_most_once(
    simulation: Any,
    request_of: Any,
    trace: list[Any],
    lanes: int,
    costs: CostModel,
    slow: float,
    queue_tokens: int,
) -> None:
    """Lost work hangs a client until its deadline; doubled work is paid twice; a stuck text starves all behind it."""
    requests = [request_of(at, tuple(lengths), patience, cancel) for at, lengths, patience, cancel in trace]
    requests = [request for request in requests if sum(request.lengths) <= queue_tokens]
    simulated = simulation(lanes=lanes, costs=costs, slowness=lambda: slow, queue_tokens=queue_tokens)
    simulated.run(requests)
    for request in requests:
        runs = Counter(index for _, index in request.runs)
        assert all(count == 1 for count in runs.values())
        assert request.fate in {"answered", "expired", "given up", "cancelled", "refused"}
        if request.fate == "answered":
            assert len(runs) == len(request.lengths)
            assert request.finished <= request.deadline
        if request.fate == "refused":
            assert not runs, "all or nothing"
    for call in simulated.calls:
        longest = max(item.tokens for item in call)
        assert len(call) == 1 or len(call) * longest <= simulated.batch_tokens
        assert len(call) <= simulated.max_rows
        assert len(call) == 1 or costs.merges
    scheduler = simulated.scheduler
    assert all(seconds > 0 for seconds in simulated.retries)
    assert (scheduler.queued_tokens, scheduler.queued_texts, scheduler.running) == (0, 0, 0)
    assert scheduler.wait_seconds == 0
    assert len(scheduler._small.heap) + len(scheduler._large.heap) <= 2 * 64


@settings(max_examples=40)
@given(trace=st.lists(REQUESTS, max_size=25), lanes=st.integers(1, 3))
def test_the_earliest_deadline_of_a_queue_runs_first(
    simulation: Any, request_of: Any, trace: list[Any], lanes: int
) -> None:
    """Any other order misses deadlines that could have been met."""

    def watch(scheduler: Scheduler, now: float, item: Item | None) -> None:
        if item is None:
            return
        queue = scheduler._queue(item.is_small)
        waiting = [other.ticket.deadline for _, _, other in queue.heap if other.is_queued]
        assert item.ticket.deadline <= min(waiting, default=float("inf"))

    requests = [request_of(at, tuple(lengths), patience, cancel) for at, lengths, patience, cancel in trace]
    simulation(lanes=lanes, watch=watch).run(requests)


@settings(max_examples=60)
@given(trace=st.lists(REQUESTS, max_size=30), lanes=st.integers(1, 3))
def test_what_was_admitted_is_answered_in_time_when_the_predictions_hold(
    simulation: Any, request_of: Any, trace: list[Any], lanes: int
) -> None:
    """Work that is let in and then expires has taken the place of work that would have been answered.

    Large requests are promised what small ones left over lately; small ones that come later may take more.
    """
    requests = [request_of(at, tuple(lengths), patience) for at, lengths, patience, _ in trace]
    small_arrivals = [request.arrival for request in requests if len(request.lengths) <= SMALL_TEXTS]
    simulated = simulation(lanes=lanes)
    was_idle: set[int] = set()
    check = simulated.admission.check

    def spy(ticket: Ticket, now: float) -> bool:
        if simulated.scheduler.queued_texts == 0 and simulated.scheduler.running < lanes:
            was_idle.add(id(ticket.owner))
        is_idle: bool = check(ticket, now)
        return is_idle

    simulated.admission.check = spy
    simulated.run(requests)
    for request in requests:
        is_passed = any(request.arrival <= arrival < request.deadline for arrival in small_arrivals)
        is_small = len(request.lengths) <= SMALL_TEXTS
        if request.patience > 0 and id(request) not in was_idle and (is_small or not is_passed):
            assert request.fate in ("answered", "refused")


def test_a_large_batch_holds_up_no_single_texts(simulation: Any, request_of: Any) -> None:
    """64 texts of one client in a row would add their whole length to everybody's latency."""
    batch = request_of(0.0, (20,) * 64, 10.0)
    singles = [request_of(0.001 + 0.01 * number, (20,), 20.0) for number in range(20)]
    simulation().run([batch, *singles])
    cost = ALONE.seconds(1, 20)
    assert max(single.finished - single.arrival for single in singles) <= 4 * cost
    assert batch.fate == "answered"


def _full_of_singles() -> tuple[Scheduler, float]:
    """A lane that knows what calls take, with singles up to their deadline; and what one of them takes."""
    scheduler = Scheduler(1)
    cost = ALONE.seconds(1, 20)
    for _ in range(200):
        scheduler.add(Ticket.of([20], 1e9, "model", ALONE))
        item, _ = scheduler.take(0.0)
        assert item is not None
        scheduler.finish([item], cost)
    while scheduler.lateness(single := Ticket.of([20], 10.5 * cost, "model", ALONE), 0.0) <= 0:
        scheduler.add(single)
    return scheduler, cost


def test_singles_are_promised_the_whole_lane_while_no_batch_is_there() -> None:
    """Keeping a share for batches that do not come refuses singles that would have been answered in time."""
    scheduler, _ = _full_of_singles()
    assert scheduler.queued_texts == 10


def test_a_batch_that_comes_breaks_no_promise_to_singles() -> None:
    """It would take its share from those who were promised all of it, and the last of them would be late."""
    scheduler, cost = _full_of_singles()
    scheduler.add(Ticket.of([20] * 64, 1e9, "model", ALONE))
    sizes = []
    for number in range(12):
        item, expired = scheduler.take(number * cost)
        assert item is not None
        assert expired == []
        scheduler.finish([item], cost)
        sizes.append(len(item.ticket.items))
    assert sizes == [1] * 10 + [64] * 2


def test_a_batch_is_promised_nothing_that_singles_were_promised_first() -> None:
    """Let in with a share from now on, it would find itself behind them, and late."""
    scheduler, cost = _full_of_singles()
    batch = [20] * 5
    alone = 5 / LARGE_SHARE * cost * scheduler.caution
    for patience, is_late in ((alone + 9.9 * cost, True), (alone + 10.6 * cost, False)):
        assert (scheduler.lateness(Ticket.of(batch, patience, "model", ALONE), 0.0) > 0) == is_late
    scheduler.add(Ticket.of(batch, 1e9, "model", ALONE))
    second = Ticket.of(batch, alone + 9.9 * cost, "model", ALONE)
    assert scheduler.lateness(second, 0.0) > 0, "before another batch it waits for the same singles"
    for _ in range(10):
        item, _ = scheduler.take(0.0)
        assert item is not None
        scheduler.finish([item], cost)
    assert scheduler.lateness(second, 9.5 * cost) <= 0


@pytest.mark.parametrize("load", [1.0, 3.0, 10.0])
def test_single_texts_do_not_starve_a_large_batch(
    simulation: Any, request_of: Any, poisson: Callable[..., list[Any]], load: float
) -> None:
    """Single texts with nearer deadlines keep coming for ever: a batch that always yields never ends."""
    cost = ALONE.seconds(1, 20)
    singles = poisson(load / cost, 3.0, lengths=[(20,)], patience=[0.05])
    batch = request_of(1.0, (20,) * 64, 3.0)
    simulation().run([*singles, batch])
    assert batch.fate == "answered"
    assert batch.finished - batch.arrival <= (1 / LARGE_SHARE + 0.5) * 64 * cost
    during = [single for single in singles if batch.arrival < single.arrival < batch.finished]
    assert sum(single.fate == "answered" for single in during) >= 0.8 * 64 * min(load, 1.0)


def test_equal_lengths_share_a_call_and_others_do_not() -> None:
    """Merging by order of arrival alone costs CPU on unlike lengths."""
    scheduler = Scheduler(1)
    costs = CostModel(fixed=3e-4, per_token=5e-5, per_square=0.0)
    scheduler.add(Ticket.of([10, 60, 10], 9.0, "model", costs))
    scheduler.add(Ticket.of([10], 9.0, "another model", costs))
    scheduler.add(Ticket.of([11], 9.0, "model", costs))
    first, _ = scheduler.take(0.0)
    assert first is not None
    call = scheduler.merge(first, scheduler.waiting(first), 0.0)
    assert [item.tokens for item in call] == [10, 10, 11]
    assert {item.ticket.group for item in call} == {"model"}
    assert scheduler.queued_texts == 2


def test_idle_lanes_keep_their_share_of_the_texts() -> None:
    """Two lanes answer two texts at once sooner than one lane answers both together."""
    scheduler = Scheduler(2)
    scheduler.add(Ticket.of([10, 10, 10], 9.0, "model", MERGING))
    first, _ = scheduler.take(0.0)
    assert first is not None
    assert len(scheduler.merge(first, scheduler.waiting(first), 0.0, idle_lanes=1)) == 2


def test_company_must_not_make_the_first_text_late() -> None:
    """A text that would have been in time alone would expire in the middle of a shared call."""
    scheduler = Scheduler(1)
    slow = CostModel(fixed=0.01, per_token=0.001, per_square=0.0)
    scheduler.add(Ticket.of([10], 0.025, "model", slow))
    scheduler.add(Ticket.of([10], 9.0, "model", slow))
    first, _ = scheduler.take(0.0)
    assert first is not None
    assert scheduler.merge(first, scheduler.waiting(first), 0.0) == [first]


def test_a_dropped_ticket_leaves_nothing_behind() -> None:
    """Clients that come and go while all lanes hang must not fill the memory."""
    scheduler = Scheduler(1)
    for _ in range(2000):
        ticket = Ticket.of([5, 5], 9.0, "model", ALONE)
        scheduler.add(ticket)
        assert scheduler.drop(ticket) == 2
    assert scheduler.queued_tokens == scheduler.queued_texts == 0
    assert len(scheduler._small.heap) <= 65
    assert scheduler.take(0.0) == (None, [])


def test_work_beyond_its_deadline_is_given_up_before_it_runs() -> None:
    """Also where nothing else waits: nobody reads its answer, and the next request finds the lane busy."""
    scheduler = Scheduler(1)
    ticket = Ticket.of([5, 5], 1.0, "model", ALONE)
    scheduler.add(ticket)
    assert scheduler.take(1.0) == (None, [ticket])
    assert scheduler.queued_texts == 0


def test_doomed_work_gives_way_to_other_work_only() -> None:
    """An answer that may come too late is better than an idle lane, and worse than an answer in time."""
    scheduler = Scheduler(1)
    doomed = Ticket.of([100], 0.001, "model", ALONE)
    scheduler.add(doomed)
    scheduler.add(Ticket.of([100], 9.0, "model", ALONE))
    item, expired = scheduler.take(0.0)
    assert expired == [doomed]
    assert item is not None
    assert item.ticket.deadline == 9.0
    scheduler.add(Ticket.of([100], 0.001, "model", ALONE))
    item, expired = scheduler.take(0.0)
    assert item is not None
    assert not expired


def test_a_request_whose_longest_text_has_run_is_judged_by_the_rest() -> None:
    """Given up for a text that is done, it loses an answer that was a millisecond away."""
    scheduler = Scheduler(1)
    short, long = (ALONE.seconds(1, tokens) for tokens in (1, 600))
    scheduler.add(Ticket.of([600, 1], long + 2 * short, "model", ALONE))
    item, _ = scheduler.take(0.0)
    assert item is not None
    assert item.tokens == 600
    scheduler.finish([item], long)
    scheduler.add(Ticket.of([1], 10.0, "model", ALONE))
    item, expired = scheduler.take(long)
    assert item is not None
    assert (item.ticket.items[0].tokens, expired) == (600, [])


def test_a_single_is_not_promised_the_turn_of_a_long_text() -> None:
    """A text of a batch runs whole when its turn comes, however small the batch's share of the lanes."""
    scheduler = Scheduler(1)
    long = ALONE.seconds(1, 600)
    scheduler.add(Ticket.of([600] * 5, 1e9, "model", ALONE))
    for patience, is_late in ((0.9 * long, True), (1.4 * long, False)):
        assert (scheduler.lateness(Ticket.of([1], patience, "model", ALONE), 0.0) > 0) == is_late
    for _ in range(5):
        item, _ = scheduler.take(0.0)
        assert item is not None
        scheduler.finish([item], long)
    assert scheduler.lateness(Ticket.of([1], 0.9 * long, "model", ALONE), 0.0) < 0, "the batch is over"


def test_a_long_text_among_short_ones_takes_its_time_on_any_number_of_lanes() -> None:
    """One text never runs on two lanes: by the mean of its texts the request would look as if it could be in time."""
    scheduler = Scheduler(8)
    doomed = Ticket.of([10, 1000], 0.05, "model", ALONE)
    other = Ticket.of([10], 99.0, "model", ALONE)
    scheduler.add(doomed)
    scheduler.add(other)
    item, expired = scheduler.take(0.0)
    assert item is other.items[0]
    assert expired == [doomed]


@pytest.mark.parametrize(("num_texts", "is_small"), [(1, True), (SMALL_TEXTS, True), (SMALL_TEXTS + 1, False)])
def test_a_request_is_small_up_to_its_bound(num_texts: int, is_small: bool) -> None:
    """A list that just counts as small would wait behind every large batch."""
    assert [item.is_small for item in Ticket.of([10] * num_texts, 99.0, "model", ALONE).items] == [is_small] * num_texts


def test_one_hiccup_does_not_turn_the_prediction_over() -> None:
    """One call that takes a second would else refuse all traffic for many calls."""
    scheduler = Scheduler(1)
    for seconds, low, high in ((100.0, 1.0, 1.2), (1.0, 1.0, 1.2)):
        ticket = Ticket.of([10], 9.0, "model", ALONE)
        scheduler.add(ticket)
        item, _ = scheduler.take(0.0)
        assert item is not None
        scheduler.finish([item], seconds * item.seconds)
        assert low <= scheduler.pace <= high


def test_a_far_too_high_prediction_is_corrected_within_a_few_calls() -> None:
    """A warm-up beside other work would else have the first requests refused for dozens of calls."""
    scheduler = Scheduler(1)
    for _ in range(6):
        scheduler.add(Ticket.of([10], 9.0, "model", ALONE))
        item, _ = scheduler.take(0.0)
        assert item is not None
        scheduler.finish([item], 0.1 * item.seconds)
    assert scheduler.pace < 0.3


def test_what_was_learnt_of_one_models_calls_is_not_believed_of_another() -> None:
    """After a swap the door would promise by the old model's error, and its last calls would teach the new one's."""
    scheduler = Scheduler(1)
    other = CostModel(fixed=0.0, per_token=0.02, per_square=0.0, merges=False)

    def run(costs: CostModel, times_slower: float) -> None:
        scheduler.add(Ticket.of([10], 9.0, id(costs), costs))
        item, _ = scheduler.take(0.0)
        assert item is not None
        scheduler.finish([item], times_slower * item.seconds)

    for _ in range(20):
        run(ALONE, 0.1)
    caution = Scheduler(1).caution
    scheduler.learn_anew(other)
    assert (scheduler.pace, scheduler.caution) == (1.0, caution)
    run(ALONE, 0.1)
    assert (scheduler.pace, scheduler.caution) == (1.0, caution)
    run(other, 0.5)
    assert scheduler.pace == 0.75, "the first calls correct most"


def test_a_call_under_way_counts_only_what_is_left_of_it() -> None:
    """Counted whole until its end, it has requests refused that would be answered in time."""
    scheduler = Scheduler(1)
    scheduler.add(Ticket.of([95], 1.0, "model", ALONE))
    scheduler.take(0.0)
    cost = ALONE.seconds(1, 95)
    late = [scheduler.lateness(Ticket.of([95], 1.0, "model", ALONE), now) - now for now in (0.0, cost / 2, 2 * cost)]
    assert late[0] - late[1] == pytest.approx(cost / 2)
    assert late[0] - late[2] == pytest.approx(cost * scheduler.caution)


def test_uncertain_predictions_make_the_door_more_cautious() -> None:
    """With one fixed margin a steady machine refuses too much, and an unsteady one lets in what will be late."""

    def caution_after(ratios: list[float]) -> float:
        scheduler = Scheduler(1)
        for number in range(200):
            scheduler.add(Ticket.of([20], 1e9, "model", ALONE))
            item, _ = scheduler.take(0.0)
            assert item is not None
            scheduler.finish([item], ALONE.seconds(1, 20) * ratios[number % len(ratios)])
        return scheduler.caution

    assert caution_after([1.0]) < 1.01
    assert caution_after([0.5, 1.5]) == pytest.approx(1.35, abs=0.03)


def test_a_lane_that_ended_without_a_call_changes_nothing() -> None:
    """The watchdog books the end of every lane it replaces; an error there ends the watchdog."""
    scheduler = Scheduler(1)
    scheduler.finish([])
    assert (scheduler.running, scheduler.wait_seconds) == (0, 0)
