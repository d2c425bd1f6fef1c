"""How long a connection between two requests is kept, on an event loop whose clock only the test moves."""

from __future__ import annotations

import gc
import weakref

import pytest
from uvicorn.server import ServerState

from serving.http.protocol_limits import SWEEP_SECONDS, protocol_class
from tests.serving.http.test_time_limits import LIMITS, StillLoop, connection_of, play
from tests.serving.http.wire import post


def test_an_idle_connection_is_kept_for_its_time_and_then_closed() -> None:
    """Closed earlier than the load balancer expects, requests are lost; never, the places run out."""
    assert LIMITS.header_seconds < LIMITS.idle_seconds / 2, "longer than a request may take, shorter than it may idle"

    async def scene(loop: StillLoop) -> None:
        connection, wire = connection_of(loop, ServerState(), protocol_class(LIMITS))
        for num_answers in (1, 2, 3):
            connection.data_received(post())
            await loop.pass_by(LIMITS.idle_seconds / 2)
            assert (wire.end, wire.received.count(b"HTTP/1.1 200")) == ("", num_answers)
        await loop.pass_by(LIMITS.idle_seconds / 2)
        assert wire.end == ""
        await loop.pass_by(2 * SWEEP_SECONDS)
        assert wire.end == "closed"
        connection.connection_lost(None)
        await loop.pass_by(2 * SWEEP_SECONDS)

    play(scene)


def test_a_connection_whose_request_was_answered_before_its_end_is_closed_too() -> None:
    """Two thousand of these, and nobody else finds a place."""

    async def scene(loop: StillLoop) -> None:
        connection, wire = connection_of(loop, ServerState(), protocol_class(LIMITS))
        connection.data_received(post(b"", "/nowhere", length=1))
        await loop.pass_by(SWEEP_SECONDS)
        assert wire.received.startswith(b"HTTP/1.1 404")
        connection.data_received(b"x")
        await loop.pass_by(LIMITS.idle_seconds - SWEEP_SECONDS)
        assert wire.end == ""
        await loop.pass_by(3 * SWEEP_SECONDS)
        assert wire.end == "closed"
        connection.connection_lost(None)
        await loop.pass_by(2 * SWEEP_SECONDS)

    play(scene)


@pytest.mark.parametrize(
    ("sent", "is_held_up"),
    [(post(bytes(100_000)), True), (2 * post(), True), (post(bytes(2_000)), False)],
    ids=["much", "two", "little"],
)
def test_a_client_that_sends_more_than_is_wanted_is_held_up(sent: bytes, is_held_up: bool) -> None:
    """What it sends would wait in memory; once its request is looked at, it may go on."""

    async def scene(loop: StillLoop) -> None:
        connection, wire = connection_of(loop, ServerState(), protocol_class(LIMITS))
        connection.data_received(sent)
        assert wire.is_paused == is_held_up
        await loop.pass_by(SWEEP_SECONDS)
        assert not wire.is_paused
        connection.connection_lost(None)
        await loop.pass_by(2 * SWEEP_SECONDS)

    play(scene)


def test_a_connection_that_is_lost_leaves_memory_at_once() -> None:
    """With its last request: the server looks for circles seldom."""

    async def scene(loop: StillLoop) -> None:
        connection, _ = connection_of(loop, ServerState(), protocol_class(LIMITS))
        connection.data_received(post())
        await loop.pass_by(2 * SWEEP_SECONDS)
        connection.connection_lost(None)
        await loop.pass_by(2 * SWEEP_SECONDS)
        watched = weakref.ref(connection)
        del connection, _
        assert watched() is None

    gc.disable()
    try:
        play(scene)
    finally:
        gc.enable()
