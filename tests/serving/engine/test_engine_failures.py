"""The engine when something fails: every request ends in time, once, and costs no other request its answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import serving.engine.crew
from serving.bundle import Bundle
from serving.engine.contract import Answered, Expired, LaneFailed, Load, NotReady, Overloaded, Work
from serving.engine.engine import LOST_SECONDS, LaneEngine
from serving.engine.served import FAILURES_BEFORE_PROBE
from serving.errors import BundleError, UserError
from tests.serving.engine.heartbeat import Heartbeat

WORDS = ("refund", "broken", "thanks", "please", "unheard")
PATIENCE = 30.0
SLACK_SECONDS = 0.1
NUM_HANGS = 3
Make = Callable[..., LaneEngine]


def _text(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(1, 12)))


def _work(*texts: str, patience: float = PATIENCE, tasks: tuple[str, ...] | None = None) -> Work:
    return Work(tuple((text,) for text in texts), tasks, time.monotonic() + patience)


def _play(scene: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scene, 60))


def _raise(error: BaseException) -> None:
    raise error


class Panic(BaseException):
    """As libraries in Rust raise: no Exception."""


def _ask_for_too_much_memory() -> None:
    """A call of ONNX Runtime that finds no memory."""
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [1])
    zeros = helper.make_tensor_value_info("zeros", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("ConstantOfShape", ["shape"], ["zeros"])], "zeros", [shape], [zeros])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    session.run(None, {"shape": np.array([2**50])})


def _ends(engine: LaneEngine, works: list[Work]) -> list[Any]:
    """What each request ended with, and how late: seconds after its deadline, less the machine's share of them."""
    heart = Heartbeat()

    async def one(work: Work) -> tuple[Any, float]:
        try:
            ending: Any = await engine.answer(work)
        except Exception as error:  # noqa: BLE001 - the ending is what is looked at
            ending = error
        return ending, time.monotonic() - work.deadline

    async def scene() -> list[Any]:
        async with heart:
            return list(await asyncio.gather(*map(one, works)))

    endings: list[Any] = _play(scene())
    return [(ending, late - heart.excuse_seconds) for ending, late in endings]


def _wait_for(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def _settled_load(engine: LaneEngine) -> Load:
    """The load once no call is under way that nobody waits for any more."""
    _wait_for(lambda: not engine.load().running)
    return engine.load()


@pytest.mark.parametrize(
    ("failure", "counter"),
    [
        (lambda: _raise(RuntimeError("broken")), "lane_exceptions"),
        (lambda: _raise(MemoryError()), "lane_out_of_memory"),
        (lambda: _ask_for_too_much_memory(), "lane_out_of_memory"),
        (lambda: _raise(Panic("a tokenizer's last word")), "lane_exceptions"),
        (lambda: [np.full((1, 3), np.nan, np.float32)], "lane_not_finite"),
        (lambda: [np.full((1, 3), np.inf, np.float32)], "lane_not_finite"),
    ],
    ids=["exception", "memory", "memory of ONNX Runtime", "panic", "nan", "infinity"],
)
def test_only_the_poison_item_fails(make: Make, trouble: Any, failure: Callable[[], Any], counter: str) -> None:
    """In a shared call one bad text takes its neighbours with it, unless they get another chance."""
    engine = make(lanes=2)
    thanks = engine.bundle.encode(["thanks"])[0].input_ids[1]
    held = threading.Event()
    held.set()

    def act(input_ids: Any) -> Any:
        held.wait(5)
        return failure() if (input_ids == thanks).any() else None

    trouble(engine.bundle, act)
    texts = ["refund broken", "thanks broken", "please broken", "broken broken"] * 8
    endings = _ends(engine, [_work(text, tasks=("intent",)) for text in texts])
    for text, (ending, _) in zip(texts, endings, strict=True):
        assert isinstance(ending, LaneFailed if "thanks" in text else Answered), ending
    assert engine.load().counters[counter] >= 8
    assert engine.load().counters["requests_failed"] == 8
    assert engine.state == "ready"


def test_a_batch_with_a_poison_text_fails_whole_and_once(make: Make) -> None:
    """Its other texts are not computed any more for an answer that cannot be whole."""
    engine = make("int8")
    ((ending, _),) = _ends(engine, [_work(*["refund"] * 3, "poison", *["refund"] * 200)])
    assert isinstance(ending, LaneFailed)
    assert "text 3" in str(ending)
    assert engine.load().counters["calls"] <= 6
    assert engine.load().queued_texts == 0


def test_a_model_that_fails_on_known_texts_is_told_to_the_liveness_probe(make: Make, trouble: Any) -> None:
    """A GPU in an error state answers nothing ever again; only a new process helps."""
    engine = make(lanes=2)
    trouble(engine.bundle, lambda input_ids: _raise(RuntimeError("device lost")))
    endings = _ends(engine, [_work("refund") for _ in range(30)])
    assert all(isinstance(ending, LaneFailed) for ending, _ in endings)
    assert engine.state == "failed"
    assert isinstance(_ends(engine, [_work("refund")])[0][0], LaneFailed)


def test_a_graph_that_raises_on_long_texts_is_refused_at_the_warm_up(bundle_folder: Path, trouble: Any) -> None:
    """Its golden texts are short; let in, it would fail on every long text of a customer."""
    bundle = Bundle.load(bundle_folder)
    trouble(bundle, lambda input_ids: _raise(RuntimeError("out of bounds")) if input_ids.shape[1] > 7 else None)
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx fails on texts of up to 8 tokens: out of bounds"):
        LaneEngine(bundle).start()


def test_a_warm_up_without_memory_is_not_blamed_on_the_bundle(bundle_folder: Path, trouble: Any) -> None:
    """Beside the running model there may be no room for another; exporting it again would not help."""
    bundle = Bundle.load(bundle_folder)
    trouble(bundle, lambda input_ids: _ask_for_too_much_memory())
    with pytest.raises(UserError, match="for want of memory") as refused:
        LaneEngine(bundle).start()
    assert not isinstance(refused.value, BundleError)


def test_a_failed_engine_cannot_be_swapped(make: Make, trouble: Any, bundle_folder: Path) -> None:
    """Whoever deploys a better bundle would be told that it serves, while every request fails."""
    engine = make()
    trouble(engine.bundle, lambda input_ids: _raise(RuntimeError("device lost")))
    _ends(engine, [_work("refund") for _ in range(30)])
    assert engine.state == "failed"
    with pytest.raises(NotReady, match="failed"):
        _play(engine.swap(Bundle.load(bundle_folder)))
    assert engine.load().counters["swaps"] == 0


def test_panics_from_clients_do_not_make_the_engine_fail(make: Make, trouble: Any) -> None:
    """They are no Exception: whoever finds a text that makes the tokenizer panic could end the server with it."""
    engine = make("int8", lanes=1)
    thanks = engine.bundle.encode(["thanks"])[0].input_ids[1]
    trouble(engine.bundle, lambda input_ids: _raise(Panic()) if (input_ids == thanks).any() else None)
    for _ in range(2 * FAILURES_BEFORE_PROBE):
        ((ending, _),) = _ends(engine, [_work("thanks")])
        assert isinstance(ending, LaneFailed)
    assert engine.state == "ready"
    assert engine.load().counters["lanes_replaced"] == 0
    assert isinstance(_ends(engine, [_work("refund")])[0][0], Answered)


def test_poison_from_clients_does_not_make_the_engine_fail(make: Make) -> None:
    """Else one client could restart the server at will."""
    engine = make(lanes=2)
    endings = _ends(engine, [_work("poison") for _ in range(60)])
    assert all(isinstance(ending, LaneFailed) for ending, _ in endings)
    assert engine.state == "ready"
    assert isinstance(_ends(engine, [_work("refund")])[0][0], Answered)


def test_a_hanging_lane_is_replaced_and_its_request_fails_at_once(make: Make, trouble: Any) -> None:
    """One hang must cost one request, not a lane for ever."""
    engine = make("int8", lanes=1, stall_seconds=0.2)
    release = threading.Event()
    is_first = iter([True])
    trouble(engine.bundle, lambda input_ids: None if not next(is_first, False) else release.wait(20) and None)
    start = time.monotonic()
    endings = _ends(engine, [_work("refund"), _work("thanks")])
    assert time.monotonic() - start < 5
    assert isinstance(endings[0][0], LaneFailed)
    assert isinstance(endings[1][0], Answered)
    assert engine.load().counters["lane_hangs"] == 1
    assert (engine.state, engine.load().lanes_alive) == ("ready", 1)
    release.set()


def test_too_many_hanging_lanes_are_a_failed_engine(make: Make, trouble: Any) -> None:
    """Each hung thread may hold a CPU and memory: replacing them without end hides the fault."""
    engine = make("int8", lanes=2, stall_seconds=0.1)
    release = threading.Event()
    trouble(engine.bundle, lambda input_ids: release.wait(30) and None)
    before = threading.active_count()
    endings = _ends(engine, [_work("refund", patience=5) for _ in range(40)])
    assert engine.state == "failed"
    assert all(isinstance(ending, LaneFailed | Overloaded | Expired) for ending, _ in endings)
    assert max(late for _, late in endings) <= SLACK_SECONDS
    assert threading.active_count() <= before + 3
    release.set()


def test_a_deadline_is_kept_while_the_lane_hangs(make: Make, trouble: Any) -> None:
    """The watchdog is patient, the caller is not: the event loop's own timer answers."""
    engine = make("int8", lanes=1, stall_seconds=20)
    release = threading.Event()
    trouble(engine.bundle, lambda input_ids: release.wait(30) and None)
    endings = _ends(engine, [_work("refund", patience=0.2), *[_work("thanks", patience=0.3) for _ in range(5)]])
    release.set()
    for ending, late in endings:
        assert isinstance(ending, Expired | Overloaded)
        assert late <= SLACK_SECONDS
    assert engine.load().requests == 0


def test_an_ending_that_is_lost_on_its_way_is_told_soon_after_the_deadline(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is settled and its lane content, and the caller would wait for ever."""
    engine = make("int8")
    monkeypatch.setattr(serving.engine.crew, "tell", lambda endings: None)
    ((ending, late),) = _ends(engine, [_work("refund", patience=0.3)])
    assert isinstance(ending, Expired)
    assert late <= LOST_SECONDS + SLACK_SECONDS


def test_cancelled_work_never_reaches_the_model(make: Make, trouble: Any) -> None:
    """Half of the clients hang up: the others must not pay for them."""
    engine = make("int8", lanes=1)
    release = threading.Event()
    trouble = trouble(engine.bundle, lambda input_ids: release.wait(20) and None)

    async def scene() -> list[Any]:
        tasks = [asyncio.ensure_future(engine.answer(_work("refund"))) for _ in range(100)]
        await asyncio.sleep(0.05)
        for task in tasks[1::2]:
            task.cancel()
        await asyncio.sleep(0)
        release.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    endings = _play(scene())
    assert all(isinstance(ending, Answered) for ending in endings[::2])
    assert all(isinstance(ending, asyncio.CancelledError) for ending in endings[1::2])
    assert trouble.num_calls == 50
    load = engine.load()
    assert load.counters["requests_cancelled"] == 50
    assert (load.queued_texts, load.queued_tokens, load.requests) == (0, 0, 0)


def test_an_answer_that_crosses_with_its_callers_leave_is_no_error(make: Make) -> None:
    """A traceback for each client that hangs up at the last moment buries those that matter."""
    engine = make("int8", lanes=1)
    errors: list[Any] = []

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        task = asyncio.ensure_future(engine.answer(_work("refund")))
        await asyncio.sleep(0)
        while engine.load().requests:
            time.sleep(0.005)  # the loop stands still: the answer is on its way to it
        time.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)

    _play(scene())
    assert errors == []


def test_chaos_ends_every_request_in_time_and_leaks_no_thread(make: Make, trouble: Any) -> None:
    """Everything at once, as in a bad night: each request still ends, and the engine still answers after it."""
    engine = make(lanes=4, stall_seconds=1.5)
    release, hangs = threading.Event(), iter(range(NUM_HANGS))
    generator = random.Random(5)
    lock = threading.Lock()

    def act(input_ids: Any) -> Any:
        with lock:
            dice = generator.random()
            is_hang = 0.13 <= dice < 0.135 and next(hangs, None) is not None
        if dice < 0.05:
            raise RuntimeError("broken")
        if dice < 0.08:
            raise MemoryError
        if dice < 0.1:
            return [np.full((len(input_ids), width), np.nan, np.float32) for width in (3, 2, 1)]
        if dice < 0.13:
            time.sleep(0.02)
        elif is_hang:
            release.wait(20)
        return None

    trouble(engine.bundle, act)
    before = threading.active_count()

    async def one(number: int) -> float:
        own = random.Random(number)
        await asyncio.sleep(own.random() * 1.5)
        work = _work(*[_text(own) for _ in range(own.choice([1, 1, 1, 8]))], patience=own.choice([0.05, 0.5, 2.0]))
        task = asyncio.ensure_future(engine.answer(work))
        if own.random() < 0.5:
            await asyncio.sleep(own.random() * 0.02)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, LaneFailed, Expired, Overloaded):
            await task
        return time.monotonic() - work.deadline

    heart = Heartbeat()

    async def scene() -> list[float]:
        async with heart:
            return await asyncio.gather(*map(one, range(600)))

    assert max(_play(scene())) <= SLACK_SECONDS + heart.excuse_seconds
    assert engine.state == "ready"
    assert threading.active_count() <= before + NUM_HANGS
    release.set()
    _wait_for(lambda: threading.active_count() <= before)
    engine.bundle.model.session = engine.bundle.model.session._session
    assert isinstance(_ends(engine, [_work("refund")])[0][0], Answered)
    load = _settled_load(engine)
    assert (load.queued_texts, load.requests, load.running, load.lanes_alive) == (0, 0, 0, 4)


def test_an_overloaded_engine_refuses_at_the_door_and_goes_on_answering(make: Make, trouble: Any) -> None:
    """With real threads; that nearly nothing expires is shown in virtual time, where no busy machine disturbs."""
    engine = make("int8", lanes=1)
    trouble(engine.bundle, lambda input_ids: time.sleep(0.004))

    async def ask(number: int) -> Any:
        await asyncio.sleep(number / 1000)
        try:
            return await engine.answer(_work("refund", patience=0.4))
        except (Overloaded, Expired) as error:
            return error

    async def scene() -> list[Any]:
        return await asyncio.gather(*map(ask, range(2000)))

    endings = _play(scene())[600:]
    kinds = [type(ending) for ending in endings]
    assert kinds.count(Overloaded) > len(kinds) / 2
    assert kinds.count(Expired) <= kinds.count(Overloaded) / 4, "a busy machine disturbs, but the door refuses"
    assert kinds.count(Answered) >= 50
