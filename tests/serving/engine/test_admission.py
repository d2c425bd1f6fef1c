"""The door: doomed work stays outside, and overload costs no goodput."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.admission import Admission, TokenEstimator
from serving.engine.contract import Expired, Overloaded
from serving.engine.cost import CostModel
from serving.engine.ledger import Ledger
from serving.engine.schedule import Scheduler
from serving.engine.tickets import Ticket
from serving.errors import UserError

COSTS = CostModel(fixed=0.0005, per_token=0.0001, per_square=0.0, merges=False)
SETTLING_SECONDS = 1.0
"""Before these have passed, the durations that calls really have are still being learnt."""

SECONDS = 3.0
MIXES: dict[str, dict[str, Any]] = {
    "singles": {"lengths": [(10,), (30,), (60,)], "patience": [0.5]},
    "deadlines": {"lengths": [(10,), (30,), (60,)], "patience": [0.1, 0.5, 2.0]},
    "batches": {"lengths": [(10,), (30,), (60,), (20,) * 64, (30,) * 3], "patience": [0.5, 1.0]},
}


def _admit(admission: Admission, ticket: Ticket, now: float) -> None:
    """As a crew does with what has to wait."""
    admission.check(ticket, now)
    admission._scheduler.add(ticket)


def _goodput(simulation: Any, requests: list[Any], slowness: Callable[[], float]) -> tuple[float, Counter[str]]:
    """Useful lane seconds per second, and how the requests ended."""
    simulated = simulation(lanes=2, slowness=slowness)
    simulated.run(requests)
    answered = [request for request in requests if request.fate == "answered"]
    runs = [(request.lengths[index], start) for request in answered for start, index in request.runs]
    seconds = sum(COSTS.seconds(1, tokens) for tokens, start in runs if SETTLING_SECONDS <= start < SECONDS)
    return seconds / (SECONDS - SETTLING_SECONDS), Counter(request.fate for request in requests)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("noise", [(1.7,), (0.7, 1.0, 1.0, 2.5)], ids=["slow", "noisy"])
def test_overload_costs_no_goodput(
    simulation: Any, poisson: Callable[..., list[Any]], mix: str, noise: tuple[float, ...]
) -> None:
    """A server that lets everything in answers nothing in time just when it is needed most."""
    choices = MIXES[mix]
    mean = sum(sum(COSTS.seconds(1, tokens) for tokens in lengths) for lengths in choices["lengths"])
    capacity = 2 * len(choices["lengths"]) / mean / (sum(noise) / len(noise))
    goodputs = {}
    for load in (1.0, 3.0, 10.0):
        generator = random.Random(1)
        requests = poisson(load * capacity, SECONDS, **choices)
        goodputs[load], fates = _goodput(simulation, requests, lambda: generator.choice(noise))  # noqa: B023
        let_in = sum(fates.values()) - fates["refused"]
        assert fates["expired"] + fates["given up"] <= 0.05 * let_in
    assert min(goodputs[3.0], goodputs[10.0]) >= 0.95 * max(goodputs.values())


def test_below_capacity_nothing_is_refused(simulation: Any, poisson: Callable[..., list[Any]]) -> None:
    """A timid door wastes the machine."""
    capacity = 2 / COSTS.seconds(1, 30)
    requests = poisson(0.85 * capacity, SECONDS, lengths=[(30,)], patience=[0.5])
    _, fates = _goodput(simulation, requests, lambda: 1.0)
    assert set(fates) == {"answered"}


def test_a_full_queue_refuses_with_a_time_to_come_again() -> None:
    """A queue without bound answers the last one after everybody has gone."""
    scheduler = Scheduler(1)
    admission = Admission(scheduler, queue_tokens=100)
    _admit(admission, Ticket.of([60], 99.0, "model", COSTS), 0.0)
    with pytest.raises(Overloaded, match="queue is full") as refused:
        _admit(admission, Ticket.of([41], 99.0, "model", COSTS), 0.0)
    assert 0 < refused.value.retry_after < 1
    _admit(admission, Ticket.of([40], 99.0, "model", COSTS), 0.0)
    assert scheduler.queued_tokens == 100


def test_a_batch_is_let_in_whole_or_not_at_all() -> None:
    """Half a batch computed for an answer that can never be whole is waste."""
    scheduler = Scheduler(1)
    admission = Admission(scheduler, queue_tokens=10_000)
    _admit(admission, Ticket.of([10], 99.0, "model", COSTS), 0.0)
    with pytest.raises(Overloaded, match="deadline") as refused:
        _admit(admission, Ticket.of([10] * 64, 0.05, "model", COSTS), 0.0)
    assert refused.value.retry_after == pytest.approx(0.05, abs=0.05)
    assert scheduler.queued_texts == 1


def test_what_no_empty_queue_could_hold_is_the_callers_to_mend() -> None:
    """'Come again later' would be a lie: it comes again for ever."""
    with pytest.raises(UserError, match=r"about 120 tokens.*Send fewer texts"):
        _admit(Admission(Scheduler(1), queue_tokens=100), Ticket.of([60, 60], 99.0, "model", COSTS), 0.0)


def test_an_idle_engine_takes_what_has_time_left() -> None:
    """A prediction that is too high refuses everything, and is then never corrected."""
    scheduler = Scheduler(1)
    scheduler.pace = 50.0
    admission = Admission(scheduler, queue_tokens=100)
    _admit(admission, Ticket.of([60], 0.001, "model", COSTS), 0.0)
    item, expired = scheduler.take(0.0)
    assert item is not None
    assert not expired
    with pytest.raises(Expired):
        _admit(admission, Ticket.of([60], 0.0, "model", COSTS), 0.0)


def test_new_work_must_not_break_an_older_promise() -> None:
    """A nearer deadline goes first: it may be met itself and push the others beyond theirs."""
    scheduler = Scheduler(1)
    admission = Admission(scheduler, queue_tokens=10_000)
    cost = COSTS.seconds(1, 95)  # 10 ms
    for _ in range(7):
        _admit(admission, Ticket.of([95], 10.5 * cost, "model", COSTS), 0.0)
    with pytest.raises(Overloaded):
        _admit(admission, Ticket.of([95, 95], 5 * cost, "model", COSTS), 0.0)
    assert scheduler.queued_texts == 7


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0.001, 0.3), st.booleans()), max_size=30), st.floats(0, 2))
def test_the_ledger_agrees_with_adding_everything_up(entries: list[tuple[float, float, bool]], deadline: float) -> None:
    """Its bins and short cuts must not let in what the plain sum forbids."""
    ledger, kept = Ledger(), []
    for due, seconds, is_kept in entries:
        ledger.add(due, seconds)
        if is_kept:
            kept.append((due, seconds))
    for due, seconds, is_kept in entries:
        if not is_kept:
            ledger.remove(due, seconds)
    assert ledger.total == pytest.approx(sum(seconds for _, seconds in kept), abs=1e-9)
    own = 0.1
    plain = max(
        sum(seconds for other, seconds in [*kept, (deadline, own)] if other <= due) - due
        for due in [deadline, *(due for due, _ in kept if due >= deadline)]
    )
    given = ledger.excess(deadline, own, start=0.0, speed=1.0)
    assert plain - 0.021 <= given <= plain + 0.321, "a bin's 20 ms, and one entry of up to 0.3 s beside the edge"


def test_tokens_are_learnt_from_what_was_counted() -> None:
    """Another language has three times the tokens per character: the queue would hold three times its bound."""
    estimator = TokenEstimator(max_length=128)
    text = ("x" * 100,)
    assert estimator.estimate(text) == pytest.approx(32, abs=2)
    for _ in range(200):
        estimator.correct(text, 92)
    assert estimator.estimate(text) == pytest.approx(92, abs=3)
    assert estimator.estimate(("x" * 100, "x" * 10_000)) == 128
    for _ in range(200):
        estimator.correct(("x" * 10_000,), 128)
    assert estimator.estimate(text) == pytest.approx(92, abs=3), "a cut text teaches nothing"
