"""A request on its way through the engine: what it asked, what it has so far, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.engine.contract import Answered, Told, Work
from serving.engine.served import Served
from serving.engine.tickets import Item, Ticket
from serving.manifest import TaskSpec
from serving.tokenise import Encoding

Rows = Sequence[NDArray[np.float32]]
"""Per task, [1, outputs]: what a call said about one text."""

_UNREAD = Encoding([], [], was_truncated=False)


class Order:
    """One admitted request. All fields are guarded by the engine's lock, but for `told`, which is the event loop's."""

    __slots__ = (
        "admitted",
        "encodings",
        "is_settled",
        "loop",
        "num_left",
        "rows",
        "run_seconds",
        "served",
        "started",
        "tasks",
        "ticket",
        "tokenise_seconds",
        "told",
        "work",
    )

    def __init__(self, work: Work, served: Served, tasks: tuple[TaskSpec, ...], admitted: float, told: Told) -> None:
        """Take a request in; its ticket has estimated lengths.

        Args:
            work: checked.
            served: the bundle that answers it, whatever is swapped in later.
            tasks: the wanted ones.
            admitted: `time.monotonic()` seconds.
            told: of its end, on this event loop; None once it was, or nobody waits any more.
        """
        self.loop = asyncio.get_running_loop()
        self.told: Told | None = told
        self.work, self.served, self.tasks, self.admitted = work, served, tasks, admitted
        lengths = list(map(served.estimator.estimate, work.texts))
        self.ticket = ticket = Ticket.of(lengths, work.deadline, (id(served), tasks), served.costs)
        ticket.owner = self
        for item, text in zip(ticket.items, work.texts, strict=True):
            item.text = text
        self.num_left = len(lengths)
        self.rows: list[Rows] = [()] * self.num_left
        self.encodings: list[Encoding] = [_UNREAD] * self.num_left
        self.is_settled = False
        self.started: float | None = None
        self.tokenise_seconds = self.run_seconds = 0.0

    def put(self, item: Item, rows: Rows, seconds: float) -> None:
        """Keep what a call said about one text, and its share of the call's seconds."""
        self.rows[item.index] = rows
        self.encodings[item.index] = item.encoding
        self.num_left -= 1
        self.tokenise_seconds += item.tokenise_seconds
        self.run_seconds += seconds

    def release(self) -> None:
        """Break the circles of references, so that a bundle is freed with its last answer."""
        self.is_settled = True
        self.ticket.owner = None
        self.ticket.items.clear()

    def answered(self) -> Answered:
        """The whole answer, once every text has its rows.

        Loops, where comprehensions would read better: before Python 3.12 each is a call, and most answers have one row.
        """
        logits: dict[str, NDArray[np.float32]] = {}
        for task, *column in zip(self.tasks, *self.rows, strict=True):
            logits[task.name] = column[0] if len(column) == 1 else np.concatenate(column)
        truncated, tokens = [], []
        for encoding in self.encodings:
            truncated.append(encoding.was_truncated)
            tokens.append(len(encoding))
        return Answered(
            logits=logits,
            truncated=truncated,
            tokens=tokens,
            queue_seconds=(self.started or self.admitted) - self.admitted,
            tokenise_seconds=self.tokenise_seconds,
            run_seconds=self.run_seconds,
            bundle=self.served.bundle,
        )


def nothing_asked(work: Work, served: Served, tasks: tuple[TaskSpec, ...]) -> Answered:
    """The answer to a request without texts."""
    logits = {task.name: np.empty((0, task.num_outputs), dtype=np.float32) for task in tasks}
    return Answered(logits, [], [], 0.0, 0.0, 0.0, served.bundle)
