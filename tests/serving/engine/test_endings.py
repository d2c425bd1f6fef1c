"""The way of an answer from a lane's thread to the event loop."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from serving.engine.contract import Answered, LaneFailed, Work
from serving.engine.dummy import dummy_bundle
from serving.engine.endings import EventMailbox, Mailbox, open_mailbox
from serving.engine.engine import LaneEngine
from serving.operations.web import event_loop_factory

needs_eventfd = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="this system has no eventfd")
KINDS = [Mailbox, pytest.param(EventMailbox, marks=needs_eventfd)]
LOOPS = [asyncio.new_event_loop, event_loop_factory() or asyncio.new_event_loop]
Kind = Callable[[asyncio.AbstractEventLoop], Mailbox]


@pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "server"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_ending_arrives_whichever_thread_it_comes_from(
    kind: Kind, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Two lanes that end a call at the same moment wake the loop once, and both have something to say."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        mailbox = kind(loop)
        futures = [loop.create_future() for _ in range(800)]

        def post(share: list[asyncio.Future[Answered]]) -> None:
            for future in share:
                mailbox.put(future, LaneFailed("told"))

        threads = [threading.Thread(target=post, args=(futures[start::8],)) for start in range(8)]
        for thread in threads:
            thread.start()
        ends = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 30)
        assert all(isinstance(end, LaneFailed) for end in ends)
        mailbox.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scene())


@pytest.mark.parametrize("kind", KINDS)
def test_an_ending_after_the_end_of_the_loop_disturbs_nobody(kind: Kind) -> None:
    """The last lane may come back when the server is gone."""

    async def scene() -> tuple[Mailbox, asyncio.Future[Answered]]:
        loop = asyncio.get_running_loop()
        return kind(loop), loop.create_future()

    mailbox, future = asyncio.run(scene())
    mailbox.put(future, LaneFailed("nobody hears this"))
    mailbox.close()
    assert not future.done()


@needs_eventfd
def test_a_descriptor_lives_as_long_as_a_thread_may_write_to_it_and_no_longer() -> None:
    """Closed too early, its number may be a client's by then; never closed, each swap of loops loses one."""

    async def scene() -> None:
        mailbox = EventMailbox(asyncio.get_running_loop())
        descriptor = mailbox._descriptor
        mailbox.close()
        await asyncio.sleep(0.01)
        os.fstat(descriptor)
        mailbox.put(asyncio.get_running_loop().create_future(), LaneFailed("late"))
        gone = weakref.ref(mailbox)
        del mailbox
        gc.collect()
        assert gone() is None
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(descriptor)

    asyncio.run(scene())


@needs_eventfd
def test_without_a_descriptor_left_the_loop_is_told_in_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients can use up all descriptors; the requests that came in are answered nonetheless."""

    def refuse(*arguments: int) -> int:
        raise OSError(errno.EMFILE, "none left")

    async def scene() -> None:
        monkeypatch.setattr(os, "eventfd", refuse)
        assert type(open_mailbox(asyncio.get_running_loop())) is Mailbox

    asyncio.run(scene())


def test_an_engine_that_moves_to_another_loop_answers_there() -> None:
    """Its first loop has ended, and with it the mailbox."""
    engine = LaneEngine(dummy_bundle())
    engine.start()

    async def ask() -> Answered:
        return await engine.answer(Work((("refund",),), None, time.monotonic() + 30))

    num_open = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for _ in range(8):
        assert asyncio.run(ask()).truncated == [False]
    engine.close()
    gc.collect()
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) <= num_open + 2
