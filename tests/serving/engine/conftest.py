"""A simulated engine whose lanes only let virtual time pass, real engines, and trouble for their models."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import serving.engine.crew
from serving.bundle import Bundle
from serving.engine.admission import Admission
from serving.engine.contract import Expired, Overloaded
from serving.engine.cost import CostModel
from serving.engine.dummy import dummy_bundle
from serving.engine.engine import EngineSettings, LaneEngine
from serving.engine.schedule import Scheduler
from serving.engine.tickets import Item, Ticket
from tests.serving.engine.stage import COSTS as STAGE_COSTS
from tests.serving.engine.stage import Clock, Stage

COSTS = CostModel(fixed=0.0005, per_token=0.0001, per_square=0.0, merges=False)


@dataclass(eq=False)
class Request:
    """One request of a trace, and what became of it."""

    arrival: float
    lengths: tuple[int, ...]
    patience: float
    cancel_after: float | None = None
    fate: str = ""
    finished: float = 0.0
    runs: list[tuple[float, int]] = field(default_factory=list)

    @property
    def deadline(self) -> float:
        """When its answer is worth nothing any more."""
        return self.arrival + self.patience


@dataclass(eq=False)
class Simulation:
    """Lanes in virtual time.

    Attributes:
        lanes: how many.
        costs: what the scheduler believes.
        slowness: true duration of a call, as a multiple of the believed one; called for each call.
        watch: called before each take and after it with what was taken.
    """

    lanes: int = 1
    costs: CostModel = COSTS
    queue_tokens: int = 1_000_000
    batch_tokens: int = 512
    max_rows: int = 8
    slowness: Callable[[], float] = lambda: 1.0
    watch: Callable[[Scheduler, float, Item | None], None] = lambda scheduler, now, item: None
    calls: list[list[Item]] = field(default_factory=list)
    retries: list[float] = field(default_factory=list)
    busy_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.lanes, batch_tokens=self.batch_tokens, max_rows=self.max_rows)
        self.admission = Admission(self.scheduler, self.queue_tokens)
        self._events: list[tuple[float, int, str, Any]] = []
        self._number = 0
        self._num_free = self.lanes

    def run(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Play a trace to its end."""
        for request in requests:
            self._at(request.arrival, "arrive", request)
        while self._events:
            now, _, kind, subject = heappop(self._events)
            getattr(self, f"_{kind}")(now, subject)
            self._dispatch(now)
        return requests

    def _at(self, time: float, kind: str, subject: object) -> None:
        self._number += 1
        heappush(self._events, (time, self._number, kind, subject))

    def _arrive(self, now: float, request: Request) -> None:
        ticket = Ticket.of(request.lengths, request.deadline, "model", self.costs)
        ticket.owner = request
        try:
            is_idle = self.admission.check(ticket, now)
        except Overloaded as refusal:
            self.retries.append(refusal.retry_after)
            request.fate = "refused"
            return
        except Expired:
            request.fate = "expired"
            return
        self._at(request.deadline, "expire", ticket)
        if request.cancel_after is not None:
            self._at(now + request.cancel_after, "cancel", ticket)
        if is_idle and len(ticket.items) == 1 and self._num_free:
            self.scheduler.start_at_once(ticket.items[0], now)
            self._run(now, ticket.items[0])
        else:
            self.scheduler.add(ticket)

    def _end(self, now: float, ticket: Ticket, fate: str) -> None:
        if not ticket.owner.fate:
            ticket.owner.fate, ticket.owner.finished = fate, now
            self.scheduler.drop(ticket)

    def _expire(self, now: float, ticket: Ticket) -> None:
        self._end(now, ticket, "expired")

    def _cancel(self, now: float, ticket: Ticket) -> None:
        self._end(now, ticket, "cancelled")

    def _dispatch(self, now: float) -> None:
        while self._num_free:
            self.watch(self.scheduler, now, None)
            item, expired = self.scheduler.take(now)
            for ticket in expired:
                self._end(now, ticket, "given up")
            if item is None:
                return
            self.watch(self.scheduler, now, item)
            assert not item.ticket.owner.fate, "work that nobody waits for was run"
            self._run(now, item)

    def _run(self, now: float, item: Item) -> None:
        self._num_free -= 1
        items = self.scheduler.merge(item, self.scheduler.waiting(item), now, idle_lanes=self._num_free)
        for each in items:
            each.ticket.owner.runs.append((now, each.index))
        self.calls.append(items)
        seconds = self.costs.seconds(len(items), max(each.tokens for each in items)) * self.slowness()
        self.busy_seconds += seconds
        self._at(now + seconds, "done", (items, seconds))

    def _done(self, now: float, ended: tuple[list[Item], float]) -> None:
        items, seconds = ended
        self._num_free += 1
        self.scheduler.finish(items, seconds)
        for item in items:
            request = item.ticket.owner
            request.lengths_left = getattr(request, "lengths_left", len(request.lengths)) - 1
            if request.lengths_left == 0:
                self._end(now, item.ticket, "answered")


@pytest.fixture(scope="session")
def simulation() -> type[Simulation]:
    """The class itself."""
    return Simulation


@pytest.fixture(scope="session")
def request_of() -> type[Request]:
    """A trace's request."""
    return Request


def poisson_trace(rate: float, seconds: float, *, seed: int = 0, **choices: Sequence[Any]) -> list[Request]:
    """Open-loop arrivals; `lengths` and `patience` are drawn from their choices."""
    generator = random.Random(seed)
    now, requests = 0.0, []
    while (now := now + generator.expovariate(rate)) < seconds:
        lengths = generator.choice(choices["lengths"])
        requests.append(Request(now, tuple(lengths), generator.choice(choices["patience"])))
    return requests


@pytest.fixture(scope="session")
def poisson() -> Callable[..., list[Request]]:
    """`poisson(rate, seconds, seed=, lengths=[...], patience=[...])`."""
    return poisson_trace


@pytest.fixture
def make(bundle_folder: Path) -> Iterator[Callable[..., LaneEngine]]:
    """`make(precision, lanes=..., ...)`: a started engine, closed at the end."""
    engines = []

    def started(precision: str = "fp32", **settings: Any) -> LaneEngine:
        engine = LaneEngine(Bundle.load(bundle_folder, precision), EngineSettings(**settings))
        engines.append(engine)
        engine.start()
        return engine

    yield started
    for engine in engines:
        engine.close()


class Trouble:
    """Stands before a bundle's session and does what a test asks of it.

    Attributes:
        act: called with the input ids of each call before it runs; may raise, wait, or return outputs instead.
        num_calls: how many calls came.
    """

    def __init__(self, bundle: Bundle, act: Callable[[Any], Any]) -> None:
        self._session: Any = bundle.model.session
        self.act = act
        self.num_calls = 0
        session: Any = self
        bundle.model.session = session

    def run(self, names: list[str], inputs: dict[str, Any]) -> Any:
        """As a session's."""
        self.num_calls += 1
        instead = self.act(inputs["input_ids"])
        return self._session.run(names, inputs) if instead is None else instead


@pytest.fixture
def trouble() -> type[Trouble]:
    """The class itself."""
    return Trouble


@pytest.fixture
def set_stage(monkeypatch: pytest.MonkeyPatch, trouble: Any) -> Iterator[Callable[..., Stage]]:
    """`set_stage(act, lanes=1, costs=...)`: lanes over a model that asks `act` before each call."""
    stages: list[Stage] = []

    def start(act: Callable[[Any], Any], lanes: int = 1, costs: CostModel = STAGE_COSTS) -> Stage:
        clock = Clock()
        monkeypatch.setattr(serving.engine.crew, "time", SimpleNamespace(monotonic=clock.monotonic))
        bundle = dummy_bundle()
        stage = Stage(clock, bundle, trouble(bundle, act), costs=costs, lanes=lanes)
        stages.append(stage)
        stage.crew.start()
        return stage

    yield start
    for stage in stages:
        stage.crew.stop()
