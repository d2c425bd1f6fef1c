"""The door: what cannot be answered in time, or finds the queue full, is refused before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.engine.contract import Overloaded, TooLate
from serving.engine.schedule import Scheduler
from serving.engine.tickets import Ticket
from serving.errors import UserError

SHORTEST_RETRY_SECONDS = 0.05
FIRST_RATIO = 0.3
"""Tokens per character before anything was measured; about that of English prose."""


class TokenEstimator:
    """Tokens from characters, by the ratio that was measured so far."""

    def __init__(self, max_length: int, ratio: float = FIRST_RATIO, num_special: int = 2) -> None:
        """Begin with a guess.

        Args:
            max_length: of the model, in tokens.
            ratio: tokens per character, without special tokens.
            num_special: special tokens of each text.
        """
        self._max_length = max_length
        self._num_special = num_special
        self._characters = 200.0  # the first guess weighs as much as that many characters
        self._tokens = ratio * self._characters

    def estimate(self, text: Sequence[str]) -> int:
        """Tokens of a text or pair, special ones included, at most max_length."""
        ratio = self._tokens / self._characters
        return min(math.ceil(sum(map(len, text)) * ratio) + self._num_special, self._max_length)

    def correct(self, text: Sequence[str], tokens: int) -> None:
        """Learn from an exact count; a count at max_length may have been cut and teaches nothing."""
        if tokens >= self._max_length:
            return
        fading = 0.999
        self._characters = self._characters * fading + sum(map(len, text))
        self._tokens = self._tokens * fading + max(tokens - self._num_special, 0)


class Admission:
    """Says which tickets may come into a scheduler, whole or not at all."""

    def __init__(self, scheduler: Scheduler, queue_tokens: int) -> None:
        """Guard a scheduler.

        Args:
            scheduler: where admitted work waits.
            queue_tokens: tokens that may wait at once.
        """
        self._scheduler = scheduler
        self.queue_tokens = queue_tokens

    def check(self, ticket: Ticket, now: float) -> bool:
        """Whether the engine is idle, for a ticket that may come in.

        An idle engine takes whatever has time left: its predictions could otherwise never be corrected.

        Raises:
            UserError: it is larger than the whole queue, so that no time to come again would help.
            TooLate: its deadline has passed.
            Overloaded: the queue is full, or its deadline or an admitted one could not be met.
        """
        scheduler = self._scheduler
        tokens = ticket.tokens
        if tokens > self.queue_tokens:
            raise UserError(
                f"the request has about {tokens} tokens, but at most {self.queue_tokens} may wait at once. "
                "Send fewer texts at a time."
            )
        if ticket.deadline <= now:
            raise TooLate("the deadline had passed when the request came")
        if (surplus := scheduler.queued_tokens + tokens - self.queue_tokens) > 0:
            share = surplus / scheduler.queued_tokens
            raise _overloaded(share * scheduler.wait_seconds, "the queue is full")
        is_idle = scheduler.queued_texts == 0 and scheduler.running < scheduler.lanes
        if not is_idle and (late := scheduler.lateness(ticket, now)) > 0:
            raise _overloaded(late, "the deadline cannot be met")
        return is_idle


def _overloaded(retry_after: float, message: str) -> Overloaded:
    return Overloaded(max(retry_after, SHORTEST_RETRY_SECONDS), message)
