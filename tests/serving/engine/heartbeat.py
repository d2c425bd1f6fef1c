"""A beat in an event loop: the longest time without one is how late the machine may have made anything there."""

from __future__ import annotations

import asyncio
import time

BEAT_SECONDS = 0.005
HELD_SECONDS = 5.0
"""No machine stalls so long: such a gap is an engine that waits for the model in the event loop."""


class Heartbeat:
    """Beats in the running event loop while its context lasts; time counts from its making."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._longest_gap = 0.0

    async def __aenter__(self) -> Heartbeat:
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        self._count()

    @property
    def excuse_seconds(self) -> float:
        """By how much anything in this loop may have been late without the engine's doing."""
        assert self._longest_gap < HELD_SECONDS, "the engine holds the event loop up"
        return self._longest_gap

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._count()

    def _count(self) -> None:
        now = time.monotonic()
        self._longest_gap = max(self._longest_gap, now - self._last)
        self._last = now
