"""What a person sees while a run works: one line per stage, bars on a terminal, plain lines elsewhere.

Everything goes to stderr, so that stdout holds results only. With a log file set, every line is also
appended to it as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_PLAIN_INTERVAL_SECONDS = 15.0


class Bar(Protocol):
    """A running bar: told how far the work is and, optionally, what to show beside it."""

    def update(self, done: int, note: str = "") -> None:
        """Set the number of finished units."""


def console() -> Console:
    """The console on stderr, made anew so that a redirected stderr is respected."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def announce(message: str) -> None:
    """Say one line on stderr."""
    console().print(message, markup=False)


def log_event(log: Path | None, event: str, **facts: object) -> None:
    """Append one event to a run's log.jsonl."""
    if log is None:
        return
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **facts}, default=str)
    with log.open("a", encoding="utf-8") as handle:
        handle.write(line + "\n")


@contextlib.contextmanager
def progress_bar(label: str, total: int) -> Iterator[Bar]:
    """A bar on a terminal; where stderr is none, a plain line now and then."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console(), transient=True) as progress:
            yield _RichBar(progress, label, total)
    else:
        yield _PlainBar(label, total)


class _RichBar:
    def __init__(self, progress: Progress, label: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="")

    def update(self, done: int, note: str = "") -> None:
        if note:
            self._progress.update(self._task, completed=done, note=note)
        else:
            self._progress.update(self._task, completed=done)


class _PlainBar:
    def __init__(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._last = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._last >= _PLAIN_INTERVAL_SECONDS:
            self._last = now
            announce(f"  {self._label}: {done}/{self._total} {note}".rstrip())
