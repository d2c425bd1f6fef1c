"""Stages on disk: a stage reads folders and writes one new folder, whole or not at all.

A stage's key is the hash of its own recipe fields, the keys of the stages it reads, the content of its
files and its code version. It is built in `<name>-<key>.partial` under a lock and renamed when it is
complete, so that a finished stage is never edited and an interrupted one can continue where it stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.progress import announce, log_event

KEY_LENGTH = 12
STAGE_FILE = "stage.json"


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: of the folder, e.g. `teacher-intent`.
        version: of the code; raise it when the same inputs would give another result.
        fields: what it reads of the recipe and of the outside world (JSON values, file hashes).
        inputs: the stages that it reads, by role.
        build: writes the result into the folder it is given; may find what an interrupted call left there.
        label: what a person reads while it runs.
    """

    name: str
    version: int
    fields: Mapping[str, Any]
    build: Callable[[Path], None]
    inputs: Mapping[str, Stage] = field(default_factory=dict)
    label: str = ""

    @property
    def key(self) -> str:
        """Hash over everything that the result depends on."""
        facts = {
            "name": self.name,
            "version": self.version,
            "fields": self.fields,
            "inputs": {role: stage.key for role, stage in sorted(self.inputs.items())},
        }
        return hash_json(facts)[:KEY_LENGTH]

    @property
    def folder_name(self) -> str:
        """`<name>-<key>`."""
        return f"{self.name}-{self.key}"


class StageStore:
    """A folder of finished stages, shared by any number of runs and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, stage: Stage) -> Path:
        """Where the finished stage lies or will lie."""
        return self.folder / stage.folder_name

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage is complete."""
        return (self.path(stage) / STAGE_FILE).is_file()

    def seconds(self, stage: Stage) -> float:
        """How long the call that finished the stage worked on it."""
        return float(read_json(self.path(stage) / STAGE_FILE)["seconds"])

    def run(self, stage: Stage) -> Path:
        """Build the stage if it is not there, and return its folder.

        Another process that builds the same stage is waited for; a killed one leaves no lock behind,
        because the kernel releases it.
        """
        if self.is_done(stage):
            return self.path(stage)
        with self._lock(stage):
            if not self.is_done(stage):
                self._build(stage)
        return self.path(stage)

    def _build(self, stage: Stage) -> None:
        partial = self.folder / f"{stage.folder_name}.partial"
        partial.mkdir(exist_ok=True)
        started = time.monotonic()
        stage.build(partial)
        record = {
            "name": stage.name,
            "version": stage.version,
            "fields": stage.fields,
            "inputs": {role: other.folder_name for role, other in stage.inputs.items()},
            "seconds": time.monotonic() - started,
        }
        write_json(partial / STAGE_FILE, record)
        final = self.path(stage)
        if final.exists():  # an unmarked folder is no finished stage
            shutil.rmtree(final)
        partial.rename(final)

    @contextlib.contextmanager
    def _lock(self, stage: Stage) -> Iterator[None]:
        locks = self.folder / ".locks"
        locks.mkdir(exist_ok=True)
        with (locks / f"{stage.folder_name}.lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                owner = handle.read().strip() or "unknown"
                announce(f"waiting for process {owner}, which is building {stage.folder_name}")
                fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            handle.truncate()
            handle.write(str(os.getpid()))
            handle.flush()
            yield


def run_stages(store: StageStore, stages: Iterable[Stage], log: Path | None = None) -> None:
    """Run stages in order and say so."""
    for stage in stages:
        if store.is_done(stage):
            announce(f"= {stage.label}: done before ({stage.folder_name})")
            continue
        announce(f"> {stage.label}")
        log_event(log, "stage started", stage=stage.folder_name)
        store.run(stage)
        seconds = store.seconds(stage)
        log_event(log, "stage finished", stage=stage.folder_name, seconds=seconds)
        announce(f"  done in {seconds:.1f} s")


def needed_for(*targets: Stage) -> list[Stage]:
    """The stages that some stages need, those themselves last."""
    seen: set[str] = set()
    return [stage for target in targets for stage in _with_inputs(target, seen)]


def _with_inputs(stage: Stage, seen: set[str]) -> Iterator[Stage]:
    if stage.folder_name in seen:
        return
    seen.add(stage.folder_name)
    for other in stage.inputs.values():
        yield from _with_inputs(other, seen)
    yield stage


def hash_json(value: object) -> str:
    """sha256 of a value's canonical JSON."""
    encoded = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(encoded.encode()).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all, see `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write aside, then rename: a reader never sees half a file."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file that a stage wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
