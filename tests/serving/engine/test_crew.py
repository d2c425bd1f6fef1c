"""The crew's lanes when calls fail, hang or end: real threads, and a clock that only the test moves."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import serving.engine.crew
from serving.engine.admission import TokenEstimator
from serving.engine.contract import Answered, Expired, LaneFailed, Work
from serving.engine.cost import CostModel
from serving.engine.crew import LOSSES_PER_LANE, Crew
from serving.engine.dummy import dummy_bundle
from serving.engine.lanes import LONGEST_STALL_SECONDS, Lane, perform
from serving.engine.orders import Order
from serving.engine.schedule import Scheduler
from serving.engine.served import FAILURES_BEFORE_PROBE, Served

COSTS = CostModel(fixed=0.001, per_token=0.0, per_square=0.0, merges=False)
PATIENCE = 1e9
WAIT_SECONDS = 20.0
"""For what comes at once, on a busy machine too."""


class Clock:
    """Stands still unless it is moved, so that no call hangs only because the machine is busy."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._num_looks = 0
        self._watchdog: threading.Thread | None = None

    def monotonic(self) -> float:
        """As `time.monotonic`; the watchdog's looks are counted."""
        thread = threading.current_thread()
        if thread.name == "watchdog":
            self._watchdog = thread
            self._num_looks += 1
        return self.now

    def leap(self, seconds: float = 2 * LONGEST_STALL_SECONDS) -> None:
        """Let time pass, and the watchdog look at every lane or end; without a number, every call hangs."""
        self.now += seconds
        goal = self._num_looks + 2  # a look that has begun may have read the clock before
        wait_for(lambda: self._num_looks >= goal or not (self._watchdog is None or self._watchdog.is_alive()))


def wait_for(is_so: Callable[[], object]) -> None:
    """Until something is so, which is soon."""
    end = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)


class Holding:
    """A model whose calls wait until the test lets each go."""

    def __init__(self) -> None:
        self._begun: queue.Queue[tuple[threading.Thread, threading.Event]] = queue.Queue()

    def __call__(self, input_ids: Any) -> None:
        """Begin one, and wait."""
        release = threading.Event()
        self._begun.put((threading.current_thread(), release))
        release.wait(WAIT_SECONDS)

    def next_call(self) -> tuple[threading.Thread, threading.Event]:
        """The thread of the next call that has begun, and what lets it go."""
        return self._begun.get(timeout=WAIT_SECONDS)

    def lose_call(self, clock: Clock) -> None:
        """Let the next call hang until its lane is given up, and then come back."""
        thread, release = self.next_call()
        clock.leap()
        release.set()
        thread.join(WAIT_SECONDS)


class Stage:
    """A crew that has been started, over a bundle in memory."""

    def __init__(self, clock: Clock, costs: CostModel, lanes: int) -> None:
        self.clock = clock
        bundle = dummy_bundle()
        known = bundle.model.encoder.encode_checked(("known",))
        self.served = Served(bundle, costs, TokenEstimator(bundle.manifest.inputs.max_length, num_special=0), known)
        self.crew = Crew(Scheduler(lanes), queue_tokens=100_000, stall_seconds=0.04)

    def order(self, *texts: str, patience: float = PATIENCE) -> Order:
        """A request that is not submitted yet."""
        work = Work(tuple((text,) for text in texts), None, self.clock.now + patience)
        return Order(work, self.served, self.served.bundle.model.tasks, self.clock.now)

    def ask(self, *texts: str) -> Order:
        """Submit a request, and wake lanes for it."""
        order = self.order(*texts)
        wake(self.crew.submit(order))
        return order


def wake(lanes: list[Lane]) -> None:
    """As the engine does."""
    for lane in lanes:
        lane.wake()


async def ending(order: Order) -> Any:
    """What a request ends with."""
    (end,) = await asyncio.wait_for(asyncio.gather(order.future, return_exceptions=True), WAIT_SECONDS)
    return end


Set = Callable[..., Stage]


@pytest.fixture
def set_stage(monkeypatch: pytest.MonkeyPatch, trouble: Any) -> Iterator[Set]:
    """`set_stage(act, lanes=1, costs=COSTS)`: lanes over a model that asks `act` before each call."""
    stages: list[Stage] = []

    def start(act: Callable[[Any], Any], lanes: int = 1, costs: CostModel = COSTS) -> Stage:
        clock = Clock()
        monkeypatch.setattr(serving.engine.crew, "time", SimpleNamespace(monotonic=clock.monotonic))
        stage = Stage(clock, costs, lanes)
        trouble(stage.served.bundle, act)
        stages.append(stage)
        stage.crew.start()
        return stage

    yield start
    for stage in stages:
        stage.crew.stop()


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A scene on an event loop of its own."""
    asyncio.run(scene())


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

    play(scene)


@pytest.fixture
def num_words() -> list[int]:
    """Of each call so far; `fail_on_two` fills it."""
    return []


@pytest.fixture
def fail_on_two(num_words: list[int]) -> Callable[[Any], None]:
    """A model that fails on texts of two words."""

    def act(input_ids: Any) -> None:
        num_words.append(input_ids.shape[1])
        if num_words[-1] == 2:
            raise RuntimeError("a bad text")

    return act


def test_answers_between_failures_spare_the_probe(
    set_stage: Set, fail_on_two: Callable[[Any], None], num_words: list[int]
) -> None:
    """Clients' bad texts, spread over a day, would cost honest requests a call of the model each few times."""
    stage = set_stage(fail_on_two)
    few, many = FAILURES_BEFORE_PROBE // 2, FAILURES_BEFORE_PROBE - 1
    texts = [*["bad text"] * many, "good", *["bad text"] * few, "good", *["bad text"] * few, "good"]

    async def scene() -> None:
        for text in texts:
            await ending(stage.ask(text))

    play(scene)
    assert len(num_words) == len(texts)


def test_bad_texts_alone_cost_one_probe_for_so_many(
    set_stage: Set, fail_on_two: Callable[[Any], None], num_words: list[int]
) -> None:
    """A probe after each of them is twice the load, for whoever sends nothing else."""
    stage = set_stage(fail_on_two)

    async def scene() -> None:
        for _ in range(3 * FAILURES_BEFORE_PROBE - 1):
            await ending(stage.ask("bad text"))

    play(scene)
    assert len(num_words) == 3 * FAILURES_BEFORE_PROBE - 1 + 2
    assert not stage.crew.has_failed


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
    stage = set_stage(holding, costs=CostModel(fixed=1.0, per_token=1e-9, per_square=0.0))

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
    stage = set_stage(holding, lanes=2, costs=CostModel(fixed=1.0, per_token=1e-9, per_square=0.0))

    async def scene() -> None:
        order = stage.ask("text", "text")
        releases = [holding.next_call()[1] for _ in range(2)]
        for release in releases:
            release.set()
        assert isinstance(await ending(order), Answered)

    play(scene)
    assert stage.crew.counters["calls_merged"] == 0


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
