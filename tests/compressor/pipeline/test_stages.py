"""Stages on disk: whole or not there, built once, never blocked by the dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compressor.pipeline import stages
from compressor.pipeline.stages import Stage, StageStore, read_json, write_json


def counting(calls: list[Path], name: str = "one", **changes: object) -> Stage:
    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "result").write_text("done")

    return Stage(name, 1, {"field": 1, **changes}, build)


def test_a_finished_stage_is_not_built_again(tmp_path: Path) -> None:
    """Catches work that is repeated although nothing changed."""
    calls: list[Path] = []
    store = StageStore(tmp_path)
    first = store.run(counting(calls))
    assert store.run(counting(calls)) == first
    assert len(calls) == 1
    assert (first / "result").read_text() == "done"


def test_the_key_follows_fields_version_name_and_inputs() -> None:
    """Catches a stale result that is reused after something it depends on changed."""
    base = counting([])
    keys = [
        base.key,
        counting([], changed=True).key,
        counting([], "other").key,
        Stage("one", 2, {"field": 1}, base.build).key,
        Stage("one", 1, {"field": 1}, base.build, {"data": base}).key,
        Stage("one", 1, {"field": 1}, base.build, {"data": counting([], changed=2)}).key,
    ]
    assert len(set(keys)) == len(keys)
    assert counting([]).key == base.key


def test_an_interrupted_build_leaves_no_finished_stage_and_is_continued(tmp_path: Path) -> None:
    """Catches half a result that counts as whole, and an interrupted training that starts from nothing."""

    def build(folder: Path) -> None:
        if not (folder / "half").exists():
            (folder / "half").touch()
            raise RuntimeError("interrupted")
        (folder / "rest").touch()

    store, stage = StageStore(tmp_path), Stage("one", 1, {}, build)
    with pytest.raises(RuntimeError, match="interrupted"):
        store.run(stage)
    assert not store.is_done(stage)
    assert not store.path(stage).exists()
    assert {path.name for path in store.run(stage).iterdir()} == {"half", "rest", "stage.json"}


HOLDER = """
import sys, time
from pathlib import Path
from compressor.pipeline import stages
from compressor.pipeline.stages import Stage, StageStore
def build(folder):
    (folder / "started").touch()
    end = time.monotonic() + 60
    while not Path(sys.argv[2]).exists() and time.monotonic() < end:
        time.sleep(0.01)
    (folder / "by").write_text("neighbour")
StageStore(Path(sys.argv[1])).run(Stage("one", 1, {}, build))
"""


def neighbour(store: Path, end: Path) -> subprocess.Popen[bytes]:
    """A process that builds a stage until there is a file."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(store), str(end)])
    while not list(store.glob("*.partial/started")):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def mine(folder: Path) -> None:
    (folder / "by").write_text("me")


def test_a_killed_neighbours_lock_does_not_block(tmp_path: Path) -> None:
    """Catches a lock file that outlives its owner and makes every later call wait for ever."""
    process = neighbour(tmp_path, tmp_path / "never")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (StageStore(tmp_path).run(Stage("one", 1, {}, mine)) / "by").read_text() == "me"


def test_a_living_neighbour_is_waited_for_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches two processes that build one stage into each other's files."""
    end = tmp_path / "end"
    said: list[str] = []

    def announce(line: str) -> None:
        said.append(line)
        end.touch()

    monkeypatch.setattr(stages, "announce", announce)
    process = neighbour(tmp_path, end)
    assert (StageStore(tmp_path).run(Stage("one", 1, {}, mine)) / "by").read_text() == "neighbour"
    assert said[0].startswith(f"waiting for process {process.pid}")
    process.wait()


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Catches a decision file cut by a kill, which would be read as another decision."""
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    circular: list[object] = []
    circular.append(circular)
    with pytest.raises(ValueError):
        write_json(path, circular)
    assert read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["value.json"]
