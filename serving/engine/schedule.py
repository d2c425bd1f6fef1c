"""Which text runs next: earliest deadline first, with a fair share for small requests. Pure; the caller has the clock.

A request's texts wait one by one. The texts of small requests stand in one queue, those of large batches in
another; each queue is ordered by deadline, and while both have work they share the lanes' time in a fixed proportion.
So a large batch cannot hold up single texts, and single texts cannot starve it. Texts share a call only where the
cost model says that this saves time, and nothing ever waits for company.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from operator import attrgetter, itemgetter

from serving.engine.cost import CostModel
from serving.engine.ledger import Ledger
from serving.engine.tickets import Item, Ticket

LARGE_SHARE = 0.15
"""Of the lanes' time, for large requests while small ones wait too; the small ones have the rest.

While no large request waits, small ones are promised all of it; one that then comes waits until they had theirs.
"""

CAUTION = 0.7
"""Of the predictions' mean relative error, added to them at the door: what is let in is to be answered in time."""

FIRST_ERROR = 0.25
"""That error before anything was measured."""

MEMORY_SECONDS = 0.5
"""How far back small requests' use of the lanes counts, when a large one is promised its time."""

MERGE_WINDOW = 32
"""Waiting texts that are looked at for company."""

_TOKENS = attrgetter("tokens")


@dataclass(slots=True)
class _Call:
    """A call under way: when it began, and its predicted seconds."""

    started: float
    seconds: float


class _Queue:
    """Items of one class by deadline; dropped ones stay until they come up or outnumber the others."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Item]] = []
        self.ledger = Ledger()
        self.num_items = 0
        self.longest_seconds = 0.0  # of the items since it was empty
        self._number = 0

    def push(self, item: Item) -> None:
        self._number += 1
        self.longest_seconds = max(self.longest_seconds, item.seconds)
        heappush(self.heap, (item.ticket.deadline, self._number, item))
        self.ledger.add(item.ticket.deadline, item.seconds)
        self.num_items += 1

    def pop(self) -> Item:
        """The earliest item; there must be one."""
        while True:
            item = heappop(self.heap)[2]
            if item.is_queued:
                return item

    def forget(self, item: Item) -> None:
        """Count an item out that was taken or dropped."""
        self.ledger.remove(item.ticket.deadline, item.seconds)
        self.num_items -= 1
        if self.num_items == 0:
            self.longest_seconds = 0.0
        if len(self.heap) > 2 * self.num_items + 64:
            self.heap = [entry for entry in self.heap if entry[2].is_queued]
            heapify(self.heap)


class Scheduler:
    """The waiting texts, and the order in which lanes get them."""

    def __init__(self, lanes: int, *, batch_tokens: int = 4096, max_rows: int = 64) -> None:
        """Start empty.

        Args:
            lanes: calls that run at the same time.
            batch_tokens: rows times longest of a shared call, at most; a longer text runs alone.
            max_rows: texts of a shared call, at most.
        """
        self.lanes = lanes
        self.batch_tokens = batch_tokens
        self.max_rows = max_rows
        self.learn_anew(None)
        self.queued_tokens = 0
        self.running = 0
        self._calls: dict[Item, _Call] = {}
        self._small, self._large = _Queue(), _Queue()
        self._lead = 0.0  # by how much small work is ahead of its share, since both queues had work
        self._used_seconds = self._used_at = 0.0

    def learn_anew(self, costs: CostModel | None) -> None:
        """Forget how far predictions were off; from now on those of `costs` are corrected (None: all of them)."""
        self.pace = 1.0
        self._error = FIRST_ERROR
        self._num_measured = 0
        self._learns_of = costs

    @property
    def queued_texts(self) -> int:
        """Texts that wait for a lane."""
        return self._small.num_items + self._large.num_items

    @property
    def wait_seconds(self) -> float:
        """How long new work waits when all that waits now comes first."""
        running = sum(call.seconds for call in self._calls.values())
        return (self._small.ledger.total + self._large.ledger.total + running) * self.pace / self.lanes

    @property
    def caution(self) -> float:
        """Predicted durations count so much longer at the door than behind it."""
        return 1 + CAUTION * self._error

    def lateness(self, ticket: Ticket, now: float) -> float:
        """By how many seconds the worst deadline would be missed if the ticket were added; <= 0 for none.

        Small requests are promised the lanes, or their share of them while a large one waits. Large ones are promised
        what small ones have left over lately, or their share, from when those small ones have run that were promised
        more (see `add`).

        Args:
            ticket: not yet added.
            now: the time.
        """
        unit = self.pace * self.caution
        is_small = ticket.items[0].is_small
        if is_small:
            share = 1 - LARGE_SHARE if self._large.num_items else 1.0
            ahead = self._large.longest_seconds  # it takes its turn whole, however small its share
        else:
            share = max(LARGE_SHARE, 1 - self._small_use(now) - self._small_backlog())
            ahead = self._small_ahead()
        speed = self.lanes * share / unit
        alone = ticket.longest_seconds * max(unit - 1 / speed, 0.0)  # one text never runs on two lanes
        start = now + (self._running_seconds(now, unit) + ahead * unit) / self.lanes + alone
        return self._queue(is_small).ledger.excess(ticket.deadline, ticket.seconds, start=start, speed=speed)

    def add(self, ticket: Ticket) -> None:
        """Let all texts of a ticket wait; a large one that finds no other waits for the small ones that are there."""
        is_small = ticket.items[0].is_small
        if not (is_small or self._large.num_items):
            self._lead = -LARGE_SHARE * self._small_ahead()
        queue = self._queue(is_small)
        for item in ticket.items:
            item.is_queued = True
            queue.push(item)
        self.queued_tokens += ticket.tokens
        ticket.owed_seconds = ticket.seconds
        ticket.num_waiting = len(ticket.items)

    def take(self, now: float) -> tuple[Item | None, list[Ticket]]:
        """The text to run next, and the tickets found on the way that can no longer be answered in time.

        A ticket is given up before its deadline only in favour of other work that waits.
        """
        expired = []
        while (queue := self._next_queue()) is not None:
            item = queue.pop()
            if self._is_doomed(item.ticket, now):
                self.drop(item.ticket)
                expired.append(item.ticket)
                continue
            self._start(item, now)
            self._calls[item] = _Call(now, item.seconds)
            return item, expired
        return None, expired

    def start_at_once(self, item: Item, now: float) -> None:
        """Start a text of a small request past the queue, for a caller who has found nothing that waits."""
        self._small_use(now)
        self._used_seconds += item.seconds * self.pace
        self.running += 1
        self._calls[item] = _Call(now, item.seconds)

    def waiting(self, item: Item) -> list[Item]:
        """The texts that might share a call with an item, earliest deadline first; they keep their places."""
        tops = self._small.heap[:MERGE_WINDOW] + self._large.heap[:MERGE_WINDOW]  # nearly the earliest of each
        others = [other for _, _, other in sorted(tops, key=itemgetter(0))[:MERGE_WINDOW]]
        return [other for other in others if other.is_queued and other.ticket.group == item.ticket.group]

    def merge(self, item: Item, candidates: Iterable[Item], now: float, *, idle_lanes: int = 0) -> list[Item]:
        """Take company for an item from its candidates, where sharing a call saves time.

        Args:
            item: the one that was taken; its length is exact.
            candidates: from `waiting`; those that were taken since are passed over.
            now: the time.
            idle_lanes: texts to leave for lanes that have nothing to do.

        Returns:
            The items of the call, the first one foremost.
        """
        chosen, costs, longest = [item], item.ticket.costs, item.tokens
        first_deadline = item.ticket.deadline
        for other in candidates:
            if len(chosen) >= self.max_rows or self.queued_texts <= idle_lanes:
                break
            widest = max(longest, other.tokens)
            if not other.is_queued or (len(chosen) + 1) * widest > self.batch_tokens:
                continue
            together = costs.seconds(len(chosen) + 1, widest) * self.pace
            if costs.gains((len(chosen), longest), other.tokens) and now + together <= first_deadline:
                self._start(other, now)
                self._calls[item].seconds += other.seconds
                chosen.append(other)
                longest = widest
        return chosen

    def drop(self, ticket: Ticket) -> int:
        """Forget the texts of a ticket that wait; returns how many."""
        ticket.is_dropped = True
        if not ticket.num_waiting:
            return 0
        waiting = [item for item in ticket.items if item.is_queued]
        for item in waiting:
            self._leave(item)
        return len(waiting)

    def finish(self, items: Sequence[Item], seconds: float | None = None) -> None:
        """A call ended (of no items: there was none); its duration corrects the predicted ones. None: no normal end.

        The first calls correct a too high prediction most: a warm-up on a busy machine can be wrong by any factor, and
        would have requests refused for dozens of calls.
        """
        if not items:
            return
        self.running -= len(items)
        del self._calls[items[0]]
        costs = items[0].ticket.costs
        if seconds is not None and self._learns_of in (None, costs):
            expected = costs.seconds(len(items), max(map(_TOKENS, items)))
            ratio = min(max(seconds / expected, self.pace / 4), self.pace * 4)  # one hiccup is no trend
            self._error += 0.05 * (abs(ratio / self.pace - 1) - self._error)
            self._num_measured += 1
            step = max(0.05, 1 / (self._num_measured + 1)) if ratio < self.pace else 0.05
            self.pace = min(max(self.pace + step * (ratio - self.pace), 0.1), 50.0)

    def set_tokens(self, item: Item, tokens: int) -> None:
        """Replace an item's estimated length by the exact one."""
        if item.is_queued:
            self.queued_tokens += tokens - item.tokens
        item.tokens = tokens

    def _queue(self, is_small: bool) -> _Queue:
        return self._small if is_small else self._large

    def _small_use(self, now: float) -> float:
        """The share of the lanes' time that small requests took lately."""
        self._used_seconds *= math.exp(min(self._used_at - now, 0.0) / MEMORY_SECONDS)
        self._used_at = now
        return self._used_seconds / (MEMORY_SECONDS * self.lanes)

    def _running_seconds(self, now: float, unit: float) -> float:
        """Lane time that the calls under way will still take; a call that is late is taken to end now."""
        return sum(max(call.seconds * unit - (now - call.started), 0.0) for call in self._calls.values())

    def _next_queue(self) -> _Queue | None:
        if self._small.num_items and self._large.num_items:
            return self._small if self._lead <= 0 else self._large
        self._lead = 0.0
        return self._small if self._small.num_items else self._large if self._large.num_items else None

    def _is_doomed(self, ticket: Ticket, now: float) -> bool:
        if ticket.deadline <= now:
            return True
        if self.queued_texts == ticket.num_waiting:
            return False
        seconds = ticket.owed_seconds / self.lanes
        if seconds < ticket.longest_seconds:  # the longest may have run: look at those that wait
            seconds = max(seconds, *(item.seconds for item in ticket.items if item.is_queued))
        return now + seconds * self.pace > ticket.deadline

    def _small_backlog(self) -> float:
        """The share of the lanes' time that waiting small requests will take soon."""
        return self._small.ledger.total * self.pace / (MEMORY_SECONDS * self.lanes)

    def _small_ahead(self) -> float:
        """Seconds of small requests that large ones wait for before they have a share: promised before these came."""
        waiting = self._small.ledger.total
        return min(max(-self._lead, 0.0) / LARGE_SHARE, waiting) if self._large.num_items else waiting

    def _start(self, item: Item, now: float) -> None:
        if item.is_small:
            self._small_use(now)
            self._used_seconds += item.seconds * self.pace
            self._lead += item.seconds * LARGE_SHARE
        else:
            self._lead -= item.seconds * (1 - LARGE_SHARE)
        self._leave(item)
        self.running += 1

    def _leave(self, item: Item) -> None:
        item.is_queued = False
        item.ticket.num_waiting -= 1
        item.ticket.owed_seconds -= item.seconds
        self.queued_tokens -= item.tokens
        self._queue(item.is_small).forget(item)
