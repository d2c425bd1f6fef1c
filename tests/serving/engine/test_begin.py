"""`begin`: a request whose caller does not wait in a task is told its end once, or never when it does not care."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import pytest

from serving.engine.contract import Answered, Engine, Expired, NotReady, Work
from serving.engine.dummy import DummyEngine
from serving.engine.engine import LaneEngine
from serving.engine.orders import Order
from serving.errors import UserError

Make = Callable[..., LaneEngine]
Endings = list[Answered | Exception]
PAUSE_SECONDS = 0.1


def _work(*texts: str, patience: float = 30.0, tasks: tuple[str, ...] | None = None) -> Work:
    return Work(tuple((text,) for text in texts), tasks, time.monotonic() + patience)


def _play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 30))


class Held(NamedTuple):
    """An engine whose calls wait, whether one has begun, and what lets them go."""

    engine: LaneEngine
    has_begun: threading.Event
    release: threading.Event


async def _until(is_so: Callable[[], object]) -> None:
    while not is_so():
        await asyncio.sleep(0.001)


@pytest.fixture
def held(make: Make, trouble: Any) -> Any:
    """See `Held`."""
    engine = make("int8", lanes=1)
    release = threading.Event()
    has_begun = threading.Event()

    def wait(input_ids: Any) -> None:
        has_begun.set()
        release.wait(20)

    trouble(engine.bundle, wait)
    yield Held(engine, has_begun, release)
    release.set()


@pytest.mark.parametrize("texts", [("refund",), ("refund", "thanks"), ()])
@pytest.mark.parametrize("kind", ["lanes", "dummy"])
def test_an_answer_is_told_later_and_once(make: Make, kind: str, texts: tuple[str, ...]) -> None:
    """A caller that is told before it has what forgets the request would lose track of it."""

    async def scene() -> None:
        engine: Engine = DummyEngine() if kind == "dummy" else make("int8", lanes=1)
        endings: Endings = []
        forget = engine.begin(_work(*texts), endings.append)
        assert not endings
        await _until(lambda: endings)
        forget()
        forget()
        await asyncio.sleep(PAUSE_SECONDS)
        (answered,) = endings
        assert isinstance(answered, Answered)
        assert len(answered.tokens) == len(texts)

    _play(scene())


def test_what_is_known_at_the_door_is_raised_and_not_told(make: Make) -> None:
    """Both would be two answers."""
    engine = make("int8", lanes=1)

    async def scene() -> None:
        endings: Endings = []
        with pytest.raises(UserError, match="no task 'tone'"):
            engine.begin(_work("refund", tasks=("tone",)), endings.append)
        await engine.drain(1.0)
        with pytest.raises(NotReady):
            engine.begin(_work("refund"), endings.append)
        await asyncio.sleep(PAUSE_SECONDS)
        assert not endings

    _play(scene())


def test_a_forgotten_request_is_not_told_and_not_run(held: Held) -> None:
    """Its connection may be somebody else's by then."""
    engine, has_begun, release = held

    async def scene() -> None:
        endings: Endings = []
        first = engine.begin(_work("refund"), endings.append)
        await _until(has_begun.is_set)
        second = engine.begin(_work("thanks"), endings.append)
        first()
        second()
        assert engine.load().requests == 0
        release.set()
        await asyncio.sleep(PAUSE_SECONDS)
        assert not endings
        counters = engine.load().counters
        assert (counters["requests_cancelled"], counters["calls"]) == (2, 1)
        assert await engine.drain(5.0) == 0

    _play(scene())


def test_the_first_end_counts(held: Held) -> None:
    """An answer that comes after its deadline was told would be a second one on the connection."""
    engine, _, release = held

    async def scene() -> None:
        endings: Endings = []
        engine.begin(_work("refund", patience=0.05), endings.append)
        await _until(lambda: endings)
        release.set()
        await asyncio.sleep(PAUSE_SECONDS)
        (expired,) = endings
        assert isinstance(expired, Expired)

    _play(scene())


def test_a_drain_waits_for_what_nobody_awaits(held: Held) -> None:
    """A server that ends would answer such a request with nothing."""
    engine, has_begun, release = held

    async def scene() -> None:
        endings: Endings = []
        engine.begin(_work("refund"), endings.append)
        await _until(has_begun.is_set)
        draining = asyncio.ensure_future(engine.drain(20.0))
        await asyncio.sleep(PAUSE_SECONDS)
        assert not draining.done()
        release.set()
        assert await draining == 0
        assert isinstance(endings[0], Answered)

    _play(scene())


def test_a_tokeniser_that_cannot_start_harms_no_request(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Admitted and then refused, a request would be answered twice."""
    engine = make("int8", lanes=1, tokenisers=1)

    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(engine._tokenisers, "submit", fail)

    async def scene() -> None:
        endings: Endings = []
        engine.begin(_work("refund", "thanks", "please"), endings.append)
        await _until(lambda: endings)
        assert isinstance(endings[0], Answered)
        assert engine.load().requests == 0

    _play(scene())


def test_a_request_that_is_forgotten_when_its_end_is_on_the_way_is_not_told(make: Make) -> None:
    """The lane has handed the answer over, and the event loop has not come to it."""
    engine = make("int8", lanes=1)

    async def scene() -> None:
        endings: Endings = []
        forget = engine.begin(_work("refund"), endings.append)
        while not engine.load().counters["requests_answered"]:
            time.sleep(0.001)
        forget()
        await asyncio.sleep(PAUSE_SECONDS)
        assert not endings
        assert engine.load().counters["requests_cancelled"] == 0

    _play(scene())


def test_a_close_tells_all_that_are_open(held: Held) -> None:
    """Whoever is not told waits for ever."""
    engine, has_begun, release = held

    async def scene() -> None:
        endings: Endings = []
        for _ in range(3):
            engine.begin(_work("refund"), endings.append)
        await _until(has_begun.is_set)
        engine.close()
        await _until(lambda: len(endings) == 3)
        assert {type(ending) for ending in endings} == {NotReady}
        release.set()

    _play(scene())


@pytest.mark.parametrize("way", ["answer", "begin"])
def test_a_request_whose_time_is_over_leaves_no_circle_behind(held: Held, way: str) -> None:
    """Collections are rare in a server: an exception that knows its frames would keep a bundle that was swapped."""
    engine, _, release = held

    async def expire() -> None:
        endings: Endings = []
        if way == "begin":
            engine.begin(_work("refund", patience=0.03), endings.append)
            await _until(lambda: endings)
            return
        with pytest.raises(Expired):
            await engine.answer(_work("refund", patience=0.03))

    async def scene() -> None:
        for _ in range(3):
            await asyncio.ensure_future(expire())
        release.set()
        await _until(lambda: not any(isinstance(found, Order) for found in gc.get_objects()))

    gc.collect()
    gc.disable()
    try:
        _play(scene())
    finally:
        gc.enable()
