"""The engine over a real (toy) bundle: served equals offline, in any mix, across swaps and until it is drained."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bundle import Bundle
from serving.engine.contract import COUNTERS, Answered, NotReady, Work
from serving.engine.engine import EngineSettings, LaneEngine
from serving.errors import UserError

WORDS = ("refund", "broken", "thanks", "please", "unheard")
PATIENCE = 30.0
Make = Callable[..., LaneEngine]


def _text(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(1, 12)))


def _work(*texts: str, patience: float = PATIENCE, tasks: tuple[str, ...] | None = None) -> Work:
    return Work(tuple((text,) for text in texts), tasks, time.monotonic() + patience)


def _play(scene: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scene, 60))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("batch", ["auto", 1])
def test_served_logits_equal_offline_ones_in_any_mix(make: Make, precision: str, batch: Any) -> None:
    """A row handed to the wrong request, or a neighbour that changes an answer, is the worst a server can do."""
    engine = make(precision, lanes=3, batch=batch)
    bundle = engine.bundle
    generator = random.Random(1)
    mixes = [[_text(generator) for _ in range(generator.choice([1, 1, 1, 2, 5, 40]))] for _ in range(120)]
    tasks = [generator.choice([None, ("urgency",), ("topics", "intent")]) for _ in mixes]

    async def scene() -> list[Answered]:
        asked = [engine.answer(_work(*texts, tasks=names)) for texts, names in zip(mixes, tasks, strict=True)]
        return await asyncio.gather(*asked)

    for texts, names, given in zip(mixes, tasks, _play(scene()), strict=True):
        expected = bundle.logits(texts, names)
        assert list(given.logits) == list(expected)
        for task, rows in expected.items():
            np.testing.assert_allclose(given.logits[task], rows, atol=1e-6)
        encodings = bundle.encode(texts)
        assert given.truncated == [encoding.was_truncated for encoding in encodings]
        assert given.tokens == [len(encoding) for encoding in encodings]
        assert given.bundle is bundle
        assert min(given.queue_seconds, given.tokenise_seconds, given.run_seconds) >= 0
    load = engine.load()
    assert load.counters["requests_answered"] == len(mixes)
    assert load.counters["texts_run"] == sum(map(len, mixes))
    assert (load.queued_texts, load.queued_tokens, load.running, load.requests) == (0, 0, 0, 0)
    assert load.counters["calls_merged"] == 0 or (precision == "fp32" and batch == "auto")
    assert set(load.counters) == set(COUNTERS)


def test_pairs_are_served_too(pair_bundle_folder: Path) -> None:
    """The warm-up and the estimate of lengths must know that a text may have two parts."""
    engine = LaneEngine(Bundle.load(pair_bundle_folder))
    engine.start()
    work = Work((("refund", "thanks"), ("thanks", "refund broken")), None, time.monotonic() + PATIENCE)
    given = _play(engine.answer(work))
    expected = engine.bundle.logits(list(work.texts))
    np.testing.assert_allclose(given.logits["intent"], expected["intent"], atol=1e-6)
    engine.close()


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (_work("refund", " "), "text 1 is empty"),
        (_work("refund", tasks=("tone",)), "no task 'tone'"),
        (Work((("refund", "thanks"),), None, 1e18), "one string for each text"),
        (_work(*["refund"] * 100), "Send fewer texts"),
    ],
)
def test_wrong_requests_are_the_callers_to_mend(make: Make, work: Work, message: str) -> None:
    """They must not reach a lane, where they would look like failures of the model."""
    engine = make(queue_tokens=200)
    with pytest.raises(UserError, match=message):
        _play(engine.answer(work))
    assert engine.load().counters["calls"] == 0


def test_no_texts_give_no_rows(make: Make) -> None:
    """As offline; a request without items would otherwise never end."""
    given = _play(make().answer(_work()))
    assert given.logits["intent"].shape == (0, 3)


def test_several_texts_per_call_are_refused_where_neighbours_change_answers(bundle_folder: Path) -> None:
    """Silently serving one by one, or silently serving changed answers: both are worse than an error."""
    with pytest.raises(UserError, match="batch"):
        LaneEngine(Bundle.load(bundle_folder, "int8"), EngineSettings(batch=8)).start()


def test_draining_answers_what_was_taken_and_takes_no_more(make: Make) -> None:
    """A stop that fails requests is an outage at every deployment."""
    engine = make("int8", lanes=1)

    async def scene() -> None:
        tasks = [asyncio.ensure_future(engine.answer(_work("refund"))) for _ in range(50)]
        await asyncio.sleep(0)
        draining = asyncio.ensure_future(engine.drain(10))
        await asyncio.sleep(0)
        assert engine.state == "draining"
        with pytest.raises(NotReady):
            await engine.answer(_work("refund"))
        assert await draining == 0
        assert all(isinstance(answered, Answered) for answered in await asyncio.gather(*tasks))

    _play(scene())


def test_a_drain_ends_with_its_grace(make: Make, trouble: Any) -> None:
    """A hung lane must not keep the process from ending, and nobody may wait for ever."""
    engine = make("int8", lanes=1)
    release = threading.Event()
    trouble(engine.bundle, lambda input_ids: release.wait(20) and None)

    async def scene() -> None:
        tasks = [asyncio.ensure_future(engine.answer(_work("refund"))) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert await engine.drain(0.1) == 3
        assert [type(ending) for ending in await asyncio.gather(*tasks, return_exceptions=True)] == [NotReady] * 3

    _play(scene())
    release.set()


def test_nothing_is_taken_before_the_start_or_after_the_end(bundle_folder: Path) -> None:
    """503 is for exactly these two."""
    engine = LaneEngine(Bundle.load(bundle_folder))
    states = [engine.state]
    with pytest.raises(NotReady):
        _play(engine.answer(_work("refund")))
    before = threading.active_count()
    engine.start()
    states.append(engine.state)
    engine.close()
    engine.close()
    assert states == ["starting", "ready"]
    end = time.monotonic() + 10
    while threading.active_count() > before:  # a thread that an earlier test left behind may end meanwhile
        assert time.monotonic() < end
        time.sleep(0.01)
    with pytest.raises(NotReady):
        _play(engine.answer(_work("refund")))


def test_swaps_under_load_answer_every_request_with_the_bundle_that_is_named(bundle_folder: Path, make: Make) -> None:
    """Labels of one model read over another's logits look like answers; a swap must not lose a request either."""
    engine = make("int8", lanes=2)
    generator = random.Random(3)
    texts = [_text(generator) for _ in range(600)]

    async def ask(number: int) -> Answered:
        await asyncio.sleep(number / 1000)
        return await engine.answer(_work(texts[number]))

    async def swap() -> None:
        for number in range(20):
            await engine.swap(Bundle.load(bundle_folder, ("fp32", "int8")[number % 2]))

    async def scene() -> list[Answered]:
        swapping = asyncio.ensure_future(swap())
        answers = await asyncio.gather(*map(ask, range(len(texts))))
        await swapping
        return list(answers)

    answers = _play(scene())
    assert len({id(answered.bundle) for answered in answers}) > 2
    for text, answered in zip(texts, answers, strict=True):
        for task, rows in answered.bundle.logits([text]).items():
            np.testing.assert_allclose(answered.logits[task], rows, atol=1e-6)
    assert engine.load().counters["swaps"] == 20


def test_the_old_bundle_is_freed_with_its_last_answer(bundle_folder: Path, make: Make, trouble: Any) -> None:
    """Twenty swaps with everything kept are twenty models in memory."""
    engine = make("int8", lanes=1)
    old = weakref.ref(engine.bundle)
    release = threading.Event()
    trouble(engine.bundle, lambda input_ids: release.wait(20) and None)

    async def scene() -> None:
        asked = asyncio.ensure_future(engine.answer(_work("refund", "thanks")))
        await asyncio.sleep(0.02)
        await engine.swap(Bundle.load(bundle_folder, "int8"))
        assert old() is not None
        release.set()
        assert (await asked).bundle is old()

    _play(scene())
    assert isinstance(_play(engine.answer(_work("refund"))), Answered)
    gc.collect()
    assert old() is None


def test_lanes_that_nobody_wakes_keep_no_bundle(bundle_folder: Path, make: Make) -> None:
    """With little traffic the last lanes of a burst sleep for hours: a model in memory for each swap before."""
    engine = make("int8", lanes=4)
    old = weakref.ref(engine.bundle)

    async def scene() -> None:
        await asyncio.gather(*(engine.answer(_work("refund", "thanks")) for _ in range(50)))
        await engine.swap(Bundle.load(bundle_folder, "int8"))

    _play(scene())
    end = time.monotonic() + 5
    while old() is not None and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    assert old() is None


def test_a_swap_forgets_how_far_predictions_were_off(bundle_folder: Path, make: Make) -> None:
    """A first warm-up on a busy machine would have the next bundle promise ten times what it can do."""
    engine = make("int8")
    engine._crew._scheduler.pace = 0.1
    _play(engine.swap(Bundle.load(bundle_folder, "int8")))
    assert engine._crew._scheduler.pace == 1.0


def test_a_refused_swap_leaves_the_old_bundle_in_service(bundle_folder: Path, make: Make) -> None:
    """An update that fails must not be an outage."""
    engine = make("fp32", batch=4)
    old = engine.bundle
    with pytest.raises(UserError):
        _play(engine.swap(Bundle.load(bundle_folder, "int8")))
    assert engine.bundle is old
    assert isinstance(_play(engine.answer(_work("refund"))), Answered)


def test_an_idle_engine_uses_no_cpu(make: Make) -> None:
    """A lane that polls costs every neighbour on the machine."""
    make(lanes=4)
    start = time.process_time()
    time.sleep(1.0)
    assert time.process_time() - start < 0.05


def test_answers_can_be_awaited_from_one_loop_after_another(make: Make) -> None:
    """Nothing may be tied to the loop that was there at the start."""
    engine = make()
    for _ in range(3):
        assert isinstance(_play(engine.answer(_work("refund"))), Answered)
