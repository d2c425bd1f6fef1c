"""What a tree of processes took, read from a process table."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks.serving.processes import (
    ProcessRow,
    ServerProcess,
    free_port,
    members,
    read_process_table,
    tree_cpu_seconds,
)

BUSY_CHILDREN = """
import os, time
if os.fork() == 0:
    os.setsid()
while time.process_time() < 0.15: pass
time.sleep(60)
"""


def test_children_and_orphans_of_the_session_belong_to_the_server_and_others_do_not() -> None:
    """A worker that is left out makes its server look cheap."""
    table = {
        1: ProcessRow(0, 1, 0),
        10: ProcessRow(1, 10, 5),
        11: ProcessRow(10, 10, 7),
        12: ProcessRow(11, 12, 9),  # in a session of its own, as some supervisors start workers
        13: ProcessRow(1, 10, 11),  # its parent has ended
        20: ProcessRow(1, 20, 100),
    }
    assert members(table, 10) == {10, 11, 12, 13}


def test_a_process_name_with_brackets_and_blanks_is_read(tmp_path: Path) -> None:
    """Counting fields from the left breaks on names such as 'a) b'."""
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "stat").write_text("7 (a) b (c) S 3 4 5 6 7 8 9 10 11 12 100 20 3 1 0 0")
    (tmp_path / "self").mkdir()
    assert read_process_table(tmp_path) == {7: ProcessRow(3, 5, 124)}


def test_a_real_tree_is_measured_paused_and_ended() -> None:
    """A paused server that runs on, or a worker that outlives its server, disturbs everything measured after it."""
    command = [sys.executable, "-c", BUSY_CHILDREN]
    with Path(os.devnull).open("wb") as log:
        process = ServerProcess(command, free_port(), cpus=os.sched_getaffinity(0), environment={}, log=log)
    try:
        _wait_for(lambda: tree_cpu_seconds(process.pid) >= 0.28)
        everyone = members(read_process_table(), process.pid)
        assert len(everyone) == 2
        assert process.memory_bytes() > 1 << 20
        process.pause()
        _wait_for(lambda: all(_state(pid) == "T" for pid in everyone))
    finally:
        process.stop()
    _wait_for(lambda: all(_state(pid) in ("gone", "Z") for pid in everyone))
    assert tree_cpu_seconds(process.pid) == 0.0


def _wait_for(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
