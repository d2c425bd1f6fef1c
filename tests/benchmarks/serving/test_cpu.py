"""CPU time by thread: whose it is, and what the table says of it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from benchmarks.serving import bare, cpu_table
from benchmarks.serving.bare import BarePlan, BareResult
from benchmarks.serving.cpu import BareLoop, RunningServer, ThreadTimes, main, thread_times
from benchmarks.serving.cpu_table import FULL, PACED, Window, pool, render
from benchmarks.serving.processes import ServerProcess, members, read_process_table
from benchmarks.serving.servers import Server, all_servers

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


def windows_of(*rounds: dict[str, float], kind: str = FULL) -> list[Window]:
    """One window per contestant and turn; rounds have two turns, the second a slow one for all."""
    return [
        Window(name, kind, number, turn, loop + turn, 3.0, 100, steal_share=0.0)
        for number, contestants in enumerate(rounds)
        for turn in range(2)
        for name, loop in contestants.items()
    ]


def test_turns_with_stolen_time_are_left_out_and_counted() -> None:
    """What another machine's load did to one window tells nothing of a server."""
    windows = windows_of({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.5})
    stolen = [Window(name, FULL, 1, 2, 90.0 * len(name), 0.0, 100, steal_share=0.5) for name in ("a", "b")]
    text = render(windows + stolen, 57.0)
    assert text.startswith("2 rounds, every contestant started anew in each; 5 turns, 1 of them left out")
    assert render(windows, 57.0).splitlines()[2:] == text.splitlines()[2:]


def test_contestants_are_compared_with_the_first_turn_by_turn() -> None:
    """Windows of one turn have the same texts, and nearly the same machine; the interval is over rounds."""
    windows = windows_of(*({"before": 1.0, "compressor": 1.0 - less} for less in (0.2, 0.3, 0.4)))
    first, second, _, remark = render(windows, 57.0).splitlines()[-4:]
    assert first == "| before | 1.500 | 3.000 | 4.500 |  |"
    more = "-0.300 (-0.548 to -0.052)"  # t with two degrees of freedom: 4.303
    assert second == f"| compressor | 1.200 | 3.000 | 4.200 | {more} |"
    other = "+0.000 (+0.000 to +0.000)"
    assert remark == f"- compressor more than before: event loop {more}, other threads {other}, together {more}"


def test_the_goal_is_judged_against_the_bare_loop_for_each_kind_of_load() -> None:
    """The loop is no server: it has no event loop to compare."""
    windows = windows_of(*({"bare": 0.0, "compressor": more} for more in (0.29, 0.30, 0.31)))
    windows += windows_of(*({"bare": 0.0, "compressor": more} for more in (0.79, 0.80, 0.81)), kind=PACED)
    lines = render(windows, 38.0).splitlines()
    assert "| bare |  |  | 3.500 |  |" in lines
    assert "| compressor | 0.800 | 3.000 | 3.800 | +0.300 (+0.275 to +0.325) |" in lines
    goals = [line for line in lines if line.startswith("- ")]
    assert [goal.rsplit(" ", 1)[1] for goal in goals] == ["reached", "MISSED"]
    assert "at full load" in goals[0]
    assert "at 38 requests per second" in goals[1]


def run_of(*rounds: dict[str, float], **others: object) -> dict[str, Any]:
    """A run as it is stored."""
    settings = ("sha256", "rate", "seconds", "paced_seconds", "server_cpus", "client_cpus")
    host = dict.fromkeys(("cpu_model", "cpu_features", "cpus", "versions"), 1)
    stored = {**dict.fromkeys(settings, 1.0), "host": host, "commits": {"compressor": "abc"}}
    return {**stored, **others, "windows": msgspec.to_builtins(windows_of(*rounds))}


def test_runs_are_pooled_as_one_of_all_their_rounds() -> None:
    """Rounds that were taken for the same one would be averaged, and make the interval too narrow."""
    values: list[dict[str, float]] = [{"bare": 0.0, "compressor": more} for more in (0.2, 0.3, 0.4)]
    first = [{**value, "floor": 9.0} for value in values[:2]]
    assert pool([run_of(*first), run_of(values[2])]) == windows_of(*values)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"sha256": "b"}, "sha256"),
        ({"commits": {"compressor": "b"}}, "commit"),
        ({"rate": 2.0, "seconds": 9}, "rate, seconds"),
    ],
)
def test_runs_of_different_things_are_not_pooled(other: dict[str, object], told: str) -> None:
    """Another bundle, code or load is another figure."""
    run = run_of({"bare": 0.0})
    with pytest.raises(SystemExit, match=f"the runs differ in {told};"):
        pool([run, {**run, **other}])


def test_runs_are_pooled_once_each_and_only_of_known_code() -> None:
    """Two edits of one commit are two programs; rounds that count twice make the interval too narrow."""
    run = run_of({"bare": 0.0})
    edited = {**run, "commits": {"compressor": "abc+"}}
    for runs, told in (
        ([run, run], "a run is given twice"),
        ([edited, {**edited, "limit_ms": 9}], "is in no commit"),
        ([run, run_of({"floor": 0.0})], "no contestant in common"),
    ):
        with pytest.raises(SystemExit, match=told):
            pool(runs)


def test_stored_runs_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table that was made with the run, from its file."""
    files = [tmp_path / "monday.json", tmp_path / "tuesday.json"]
    for file, more in zip(files, (0.2, 0.3), strict=True):
        file.write_text(json.dumps(run_of({"bare": 0.0, "compressor": more}, rate=38.0)))
    cpu_table.main(list(map(str, files)))
    assert capsys.readouterr().out.startswith("2 rounds, every contestant started anew in each; 4 turns, 0 of them")
    with pytest.raises(SystemExit, match="there is no run to show"):
        cpu_table.main([])


def test_the_bare_loop_answers_every_plan_with_the_model_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits between its windows, with its model, as a server does."""
    loaded, answered = [], []

    class Model:
        def __init__(self, bundle: Path, precision: str) -> None:
            loaded.append((bundle, precision))

        def encode(self, text: str) -> str:
            time.sleep(0.001)
            return text

        def run(self, encodings: list[str]) -> None:
            answered.append(encodings)

    plan = BarePlan("folder", "fp32", ["a text", "and another"], 0.2, seed=1)
    plans = [plan, msgspec.structs.replace(plan, rate=50.0)]
    given, said = (SimpleNamespace(buffer=io.BytesIO(text)) for text in (_lines(plans), b""))
    monkeypatch.setattr(bare, "PeerModel", Model)
    monkeypatch.setattr(sys, "stdin", given)
    monkeypatch.setattr(sys, "stdout", said)
    bare.main()
    full, paced = (msgspec.json.decode(line, type=BareResult) for line in said.buffer.getvalue().splitlines())
    assert loaded == [(Path("folder"), "fp32")]
    assert {tuple(texts) for texts in answered} == {("a text",), ("and another",)}
    assert full.texts > 2 * paced.texts > 0
    assert full.texts_per_second > 2 * paced.texts_per_second


def _lines(plans: list[BarePlan]) -> bytes:
    return b"".join(msgspec.json.encode(plan) + b"\n" for plan in plans)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("before={folder}", "there is no folder 'serving' in it"),
        ("before", "with a name of its own"),
        ("compressor={tree}", "with a name of its own"),
    ],
)
def test_a_checkout_must_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, told: str) -> None:
    """The installed package would be measured in its place, and called a change."""
    tree = Path(__file__).parents[3]
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--checkout", given.format(folder=tmp_path, tree=tree)])
    assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--checkout", f"before={tree}", "--checkout", f"before={tree}"])
    assert "before is named twice" in capsys.readouterr().err


def test_a_checkout_is_asked_as_our_server_is(tmp_path: Path) -> None:
    """Its answers have our form, whatever it is called."""
    known = all_servers(tmp_path, tmp_path, {0}, precision="int8", limit_seconds=0.05)
    assert [server.name for server in known.values() if server.is_ours] == ["compressor", "ordinary"]
    assert replace(known["compressor"], name="before").is_ours


class Refusing(BaseHTTPRequestHandler):
    """Answers every other request, and refuses the rest."""

    num_requests = 0
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One of them."""
        self.rfile.read(int(self.headers["content-length"]))
        type(self).num_requests += 1
        self.send_response(503 if self.num_requests % 2 else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not now."""


def test_time_of_a_server_that_does_not_answer_all_is_no_result() -> None:
    """What it refused would count as work that it did for nothing, and a dead server as one without a price."""
    server = Server("fake", "a fake", "none", lambda port: [], path="/")
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        process = SimpleNamespace(port=listening.server_port, pid=os.getpid(), pause=lambda: None)
        with pytest.raises(RuntimeError, match=r"a fake answered \d+ of \d+ requests; see its log"):
            RunningServer(server, cast("ServerProcess", process), ["a text"])
        listening.shutdown()


def test_a_bare_loop_that_ended_is_told() -> None:
    """A broken pipe says nothing to whoever measures."""
    command = [sys.executable, "-c", ""]
    with subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.wait()
        with pytest.raises(RuntimeError, match="the bare loop ended"):
            BareLoop(BarePlan("folder", "fp32", ["a text"], 1.0, 0), process)
