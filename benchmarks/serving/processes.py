"""Server processes: started on given CPUs, paused while another is measured, and what CPU and memory they took."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

PROC = Path("/proc")
START_SECONDS = 60.0
STOP_SECONDS = 10.0


class ProcessRow(NamedTuple):
    """One line of the process table; ticks count the process and the children that it has waited for."""

    parent: int
    session: int
    ticks: int


class ServerProcess:
    """A server and all processes that it started."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        *,
        cpus: Collection[int],
        environment: Mapping[str, str],
        log: IO[bytes],
    ) -> None:
        """Start it in a session of its own, bound to CPUs; `wait_until_ready` comes next.

        Args:
            command: what to run.
            port: that it will listen on, on 127.0.0.1.
            cpus: of it and its children.
            environment: added to ours.
            log: takes what it prints.
        """
        self.port = port
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )

    def wait_until_ready(self, path: str, seconds: float = START_SECONDS) -> float:
        """Ask until it answers 200; returns the seconds it took.

        Raises:
            RuntimeError: it ended, or took too long.
        """
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if (status := self._process.poll()) is not None:
                raise RuntimeError(f"the server ended with status {status} before it was ready; see its log")
            if _get_status(self.port, path) == 200:
                return time.monotonic() - started
            time.sleep(0.05)
        raise RuntimeError(f"the server was not ready after {seconds:.0f} s; see its log")

    @property
    def is_alive(self) -> bool:
        """Whether its first process runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self._process.pid

    def memory_bytes(self) -> int:
        """Memory of the whole tree, shared pages divided among those who share them (PSS)."""
        return sum(_proportional_bytes(pid) for pid in members(read_process_table(), self._process.pid))

    def pause(self) -> None:
        """Stop all its processes, so that an idle server takes no CPU from the one that is measured."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them run again."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it: politely, then not."""
        self.resume()
        everyone = members(read_process_table(), self._process.pid)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        for pid in everyone & set(read_process_table()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for pid in members(read_process_table(), self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def tree_cpu_seconds(root: int) -> float:
    """User and system time so far of a process and all that it started; 0 when it is not there."""
    table = read_process_table()
    ticks = sum(table[pid].ticks for pid in members(table, root)) if root in table else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def members(table: Mapping[int, ProcessRow], root: int) -> set[int]:
    """A process, its descendants, and whoever else is in its session (a child whose parent has ended)."""
    found = {pid for pid, row in table.items() if pid == root or row.session == root}
    while more := {pid for pid, row in table.items() if row.parent in found} - found:
        found |= more
    return found


def read_process_table(proc: Path = PROC) -> dict[int, ProcessRow]:
    """All processes, by their id."""
    table = {}
    for folder in proc.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                table[int(folder.name)] = _parse_stat((folder / "stat").read_text())
    return table


def run_module(module: str, plan: bytes, cpus: Collection[int]) -> bytes:
    """Run one of our modules on CPUs of its own: JSON in, JSON out."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=plan,
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    return done.stdout


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _parse_stat(line: str) -> ProcessRow:
    """Of proc(5): the name in brackets may hold anything; ppid, session, utime, stime, cutime and cstime after it."""
    fields = line.rpartition(")")[2].split()
    return ProcessRow(int(fields[1]), int(fields[3]), sum(map(int, fields[11:15])))


def _proportional_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _get_status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
