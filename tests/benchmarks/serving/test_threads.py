"""CPU time by thread: whose it is, and what the table says of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serving.processes import members, read_process_table
from benchmarks.serving.threads import ThreadTimes, Window, main, render, thread_times

BUSY = """
import sys, threading, time

def burn():
    while time.thread_time() < 0.5:
        pass
    print("done", flush=True)
    time.sleep(60)

if sys.argv[1] == "first":
    burn()
threading.Thread(target=burn).start()
time.sleep(60)
"""


def times_of(program: str, *arguments: str) -> ThreadTimes:
    """What a program took until it said that it was done."""
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            return thread_times(process.pid)
        finally:
            for pid in members(read_process_table(), process.pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("who", ["first", "another"])
def test_time_counts_for_the_thread_that_took_it(who: str) -> None:
    """The event loop runs on the first one."""
    times = times_of(BUSY, who)
    assert (times.loop >= 0.5, times.others >= 0.5) == (who == "first", who == "another")


def test_time_of_the_processes_that_a_server_starts_is_its_own() -> None:
    """A server whose workers are processes would look as if it computed nothing."""
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], 'first'])"
    times = times_of(parent, BUSY)
    assert times.others >= 0.5 > times.loop


def test_what_was_stolen_is_named() -> None:
    """Whoever reads the table is to know that the machine was not its own."""
    windows = [Window("a", 0, 0.9, 3.0, 0.5), Window("a", 1, 0.9, 3.0, 0.0)]
    assert render(windows).startswith("Windows from which the hypervisor took CPU time away: 1 of 2.")


def test_the_table_compares_with_the_first_server_round_by_round() -> None:
    """Windows of one round have the same texts, and nearly the same machine."""
    windows = [
        Window(server, number, loop + drift, 3.0 + drift)
        for number, drift in enumerate((0.0, 1.0, 5.0))
        for server, loop in (("before", 0.9), ("after", 0.7))
    ]
    first, second = render(windows).splitlines()[4:]
    assert first == "| before | 1.900 | 4.000 | 5.900 |  |  |"
    assert second == "| after | 1.700 | 4.000 | 5.700 | -0.200 (-0.200 to -0.200) | -0.200 (-0.200 to -0.200) |"


def test_a_checkout_must_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The installed package would be measured in its place, and called a change."""
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--checkout", f"before={tmp_path}"])
    assert "there is no folder 'serving' in it" in capsys.readouterr().err
