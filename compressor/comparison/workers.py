"""Running cells: one after the other in this process, or several at once in processes of their own.

A worker dies with its parent, whatever killed that; its stages stay as they are and the next call continues
them. A cell that fails, or whose worker is killed, leaves the others going.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait

from compressor.comparison.cells import Cell
from compressor.progress import announce, progress_bar
from compressor.report.wording import duration
from serving.errors import UserError

OUTPUT_LOG = "output.log"
_TICK_SECONDS = 1.0


@dataclass(frozen=True)
class Failure:
    """A cell that could not be finished.

    Attributes:
        arm: its label.
        seed: its seed.
        error: one line.
        is_users: whether the user can mend it.
    """

    arm: str
    seed: int
    error: str
    is_users: bool


Outcome = tuple[Cell, Failure | None]


def run_cells(cells: Sequence[Cell], jobs: int) -> list[Failure]:
    """Run cells and say how far they are.

    Args:
        cells: not done yet.
        jobs: processes; 1 stays in this one.

    Returns:
        The cells that failed, in the order of `cells`.
    """
    failures: dict[str, Failure] = {}
    outcomes = _in_this_process(cells) if jobs == 1 or len(cells) < 2 else _in_processes(cells, jobs)
    started = time.monotonic()
    for number, (cell, failure) in enumerate(outcomes, start=1):
        seconds = (time.monotonic() - started) / number * (len(cells) - number)
        left = f", about {duration(seconds)} left" if number < len(cells) else ""
        announce(f"cell {number} of {len(cells)}: {cell}: {'failed' if failure else 'done'}{left}")
        if failure:
            failures[str(cell)] = failure
            announce(f"  {failure.error}")
    return [failures[str(cell)] for cell in cells if str(cell) in failures]


def _in_this_process(cells: Sequence[Cell]) -> Iterator[Outcome]:
    for cell in cells:
        announce(f"{cell}:")
        yield cell, _attempt(cell)


def _attempt(cell: Cell) -> Failure | None:
    """Run a cell; its error becomes one line, and a fault of ours also a traceback on stderr."""
    try:
        cell.run()
    except UserError as error:
        return Failure(cell.arm, cell.seed, str(error), is_users=True)
    except Exception as error:  # noqa: BLE001 - one cell's fault must not end the others; it is named at the end
        traceback.print_exc()
        line = " ".join(str(error).split())
        return Failure(cell.arm, cell.seed, f"{type(error).__name__}: {line}", is_users=False)
    return None


def _in_processes(cells: Sequence[Cell], jobs: int) -> Iterator[Outcome]:
    waiting = deque(cells)
    workers = [_Worker() for _ in range(min(jobs, len(cells)))]
    done = 0
    try:
        with progress_bar("cells", len(cells)) as bar:
            while waiting or any(worker.cell for worker in workers):
                for worker in workers:
                    if worker.cell is None and waiting:
                        worker.start(waiting.popleft())
                for outcome in _finished(workers):
                    done += 1
                    yield outcome
                bar.update(done, "; ".join(str(worker.cell) for worker in workers if worker.cell))
    finally:
        for worker in workers:
            worker.stop()


def _finished(workers: Sequence[_Worker]) -> Iterator[Outcome]:
    """What has ended within a second, waiting for nothing longer."""
    ready = set(wait([worker.connection for worker in workers if worker.cell], timeout=_TICK_SECONDS))
    for worker in workers:
        if worker.connection in ready:
            yield worker.finish()


class _Worker:
    """A process that runs the cells it is sent, one at a time, and is replaced when it dies."""

    def __init__(self) -> None:
        self.cell: Cell | None = None
        self._spawn()

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def start(self, cell: Cell) -> None:
        """Begin a cell."""
        self.cell = cell
        self.connection.send(cell.without_stages())

    def finish(self) -> Outcome:
        """The outcome of the cell in work; a dead process is a failure and is replaced."""
        cell, self.cell = self.cell, None
        if cell is None:
            raise RuntimeError("the worker has no cell")
        try:
            return cell, self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode or 0
            self.stop()
            self._spawn()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            place = cell.folder / OUTPUT_LOG
            error = f"its process {how} (memory? fewer --jobs need less); see {place}, and give the same command again"
            return cell, Failure(cell.arm, cell.seed, error, is_users=True)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    """The worker's side: cells in, failures or None out, until the parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            cell: Cell = connection.recv()
        except EOFError:
            return
        with _stderr_to(cell):
            failure = _attempt(cell)
        connection.send(failure)


def _end_with_parent(end: Callable[[int], None] = os._exit) -> None:
    """Wait for the parent's death, by whatever signal, and end this process at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    end(1)


@contextmanager
def _stderr_to(cell: Cell) -> Iterator[None]:
    """What a worker says goes to the cell's own log: several at once cannot share a terminal."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    before = sys.stderr
    with (cell.folder / OUTPUT_LOG).open("a", encoding="utf-8") as log:
        sys.stderr = log
        try:
            yield
        finally:
            sys.stderr = before
