"""One request's rows, lengths and seconds by hand, and the way of its end to the event loop."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serving.bundle import Bundle
from serving.engine.admission import TokenEstimator
from serving.engine.contract import Answered, LaneFailed, Work
from serving.engine.cost import CostModel
from serving.engine.dummy import DUMMY_TASK, dummy_bundle
from serving.engine.endings import tell
from serving.engine.orders import Order, nothing_asked
from serving.engine.served import Served
from serving.manifest import TaskSpec
from serving.tokenise import Encoding
from tests.serving.engine.stage import Waiter, end, ending

COSTS = CostModel(fixed=0.001, per_token=0.0001, per_square=0.0)
TONE = TaskSpec(name="tone", type="regression", range=(0.0, 1.0))


def serve(bundle: Bundle) -> Served:
    """A bundle in service that nobody has measured."""
    return Served(bundle, COSTS, TokenEstimator(128), bundle.model.encoder.encode_checked(("known",)))


@pytest.fixture
def served() -> Served:
    """Two tasks, of three outputs and of one."""
    return serve(dummy_bundle((DUMMY_TASK, TONE)))


def order_of(served: Served, *texts: str, tasks: tuple[TaskSpec, ...] = (DUMMY_TASK, TONE)) -> Order:
    """A request that was admitted at second 10."""
    return Order(Work(tuple((text,) for text in texts), None, 1e9), served, tasks, 10.0, Waiter())


def answer(order: Order, index: int, num_tokens: int, *, seconds: float) -> None:
    """Answer one text with logits that tell which it was."""
    item = order.ticket.items[index]
    item.encoding = Encoding([0] * num_tokens, [0] * num_tokens, was_truncated=num_tokens > 3)
    item.tokenise_seconds = 0.25
    logits = np.full((1, 3), index, np.float32), np.full((1, 1), 10 * index, np.float32)
    order.put(item, logits, seconds)


def test_texts_that_are_answered_in_any_order_keep_their_places(served: Served) -> None:
    """A large request's texts come back from several lanes: in the order of coming, answers change places."""

    async def scene() -> Answered:
        order = order_of(served, "a", "b", "c")
        order.started = 12.5
        left = []
        for index, num_tokens in ((2, 4), (0, 2), (1, 3)):
            answer(order, index, num_tokens, seconds=1.0 + index)
            left.append(order.num_left)
        assert left == [2, 1, 0]
        return order.answered()

    answered = asyncio.run(scene())
    np.testing.assert_array_equal(answered.logits["topic"], [[0, 0, 0], [1, 1, 1], [2, 2, 2]])
    np.testing.assert_array_equal(answered.logits["tone"], [[0], [10], [20]])
    assert (answered.tokens, answered.truncated) == ([2, 3, 4], [False, False, True])
    assert (answered.queue_seconds, answered.tokenise_seconds, answered.run_seconds) == (2.5, 0.75, 6.0)
    assert answered.bundle is served.bundle


def test_only_texts_of_one_bundle_and_the_same_tasks_may_share_a_call(served: Served) -> None:
    """In a shared call one would be answered by the other's model, or with the other's tasks."""

    async def scene() -> None:
        group = order_of(served, "a").ticket.group
        assert order_of(served, "b").ticket.group == group
        assert order_of(served, "a", tasks=(TONE,)).ticket.group != group
        assert order_of(serve(served.bundle), "a").ticket.group != group

    asyncio.run(scene())


def test_a_request_without_texts_has_an_empty_row_for_each_task(served: Served) -> None:
    """Callers index the tasks they asked for."""
    for tasks, shapes in (((DUMMY_TASK, TONE), {"topic": (0, 3), "tone": (0, 1)}), ((TONE,), {"tone": (0, 1)})):
        answered = nothing_asked(Work((), None, 1e9), served, tasks)
        assert {name: rows.shape for name, rows in answered.logits.items()} == shapes


def test_an_end_that_finds_no_event_loop_costs_no_other_request_its_own() -> None:
    """A caller whose loop has ended would take the lane's thread with it, and all that the lane was to tell."""

    async def scene() -> Order:
        return order_of(serve(dummy_bundle()), "a")

    unheard = asyncio.run(scene())

    async def second() -> None:
        order = await scene()
        tell([(unheard, LaneFailed("nobody hears this")), (order, LaneFailed("somebody hears this"))], end)
        assert "somebody" in str(await ending(order))

    asyncio.run(second())
