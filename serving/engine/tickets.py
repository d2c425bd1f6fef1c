"""Requests as the scheduler sees them: texts by length, cost and deadline."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.engine.cost import CostModel

SMALL_TEXTS = 4
"""Texts of a small request, at most; larger ones take turns with all small ones together."""


@dataclass(slots=True, eq=False)
class Item:
    """One text of a request.

    Attributes:
        ticket: the request.
        index: which of its texts.
        tokens: its length: an estimate until it was tokenised.
        seconds: predicted for a call of its own, when it was admitted.
        is_small: whether its request is.
        is_queued: whether it waits for a lane.
        text: the text itself; the scheduler never looks at it.
        encoding: its tokens, once somebody has tokenised it.
        tokenise_seconds: that this took.
    """

    ticket: Ticket
    index: int
    tokens: int
    seconds: float
    is_small: bool = True
    is_queued: bool = False
    text: tuple[str, ...] = ()
    encoding: Any = None
    tokenise_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Ticket:
    """One admitted request.

    Attributes:
        deadline: in the scheduler's clock.
        group: only texts of equal groups can share a call (the same bundle and tasks).
        costs: of the model that answers it.
        items: its texts.
        tokens: of all its texts, when it was admitted.
        seconds: predicted for all its texts.
        longest_seconds: predicted for its longest text.
        is_dropped: nobody waits for it any more.
        num_waiting: its texts that wait.
        owed_seconds: predicted for these.
        owner: whatever the caller wants to find again.
    """

    deadline: float
    group: Hashable
    costs: CostModel
    items: list[Item] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    longest_seconds: float = 0.0
    is_dropped: bool = False
    num_waiting: int = 0
    owed_seconds: float = 0.0
    owner: Any = None

    @classmethod
    def of(cls, tokens: Sequence[int], deadline: float, group: Hashable, costs: CostModel) -> Ticket:
        """A ticket with one item per text, of the given lengths."""
        ticket = cls(deadline, group, costs)
        is_small = len(tokens) <= SMALL_TEXTS
        for index, count in enumerate(tokens):
            seconds = costs.seconds(1, count)
            ticket.items.append(Item(ticket, index, count, seconds, is_small))
            ticket.tokens += count
            ticket.seconds += seconds
            ticket.longest_seconds = max(ticket.longest_seconds, seconds)
        return ticket
