"""Results on disk after every cell, so that an interrupted run continues where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.serving.outcomes import Summary


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of one server (or of the bare loop, whose summary is None).

    Attributes:
        round: number of the round; cells of one round were measured within minutes of one another.
        server: its name, or "bare".
        kind: guess (where a search begins), probe, overload-3, overload-10, closed, even (the same rate for all), bare
            (without a pause) or bare-even.
        rate: requests per second asked for; for the bare loop the texts per second reached.
        cpu_ms: CPU milliseconds of the server's processes per answer (for the bare loop: per text).
        recovery_seconds: after an overload, until it answered within the limit again; None: it did not.
        attempts: 1, or more where something disturbed the cell and it was measured again.
        steal_share: of the CPUs' time that the hypervisor took away meanwhile; None where nobody looked.
        summary: what the generator saw.
    """

    round: int
    server: str
    kind: str
    rate: float
    cpu_ms: float
    recovery_seconds: float | None = 0.0
    attempts: int = 1
    steal_share: float | None = None
    summary: Summary | None = None


class Store:
    """A JSON file of a set-up and of cells by key."""

    def __init__(self, path: Path, setup: dict[str, Any]) -> None:
        """Read what is there.

        Args:
            path: made when missing.
            setup: what the figures depend on.

        Raises:
            ValueError: the file holds measurements of another set-up.
        """
        self._path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        if found and found["setup"] != setup:
            changed = sorted(key for key in setup | found["setup"] if found["setup"].get(key) != setup.get(key))
            raise ValueError(
                f"{path} holds measurements of another set-up (different: {', '.join(changed)}). "
                "Give another --output, or delete the file."
            )
        self.setup = setup
        self.facts: dict[str, Any] = found.get("facts", {})
        self.cells = msgspec.convert(found.get("cells", {}), dict[str, Cell])

    def add(self, key: str, cell: Cell) -> None:
        """Keep a cell."""
        self.cells[key] = cell
        self._write()

    def note(self, name: str, fact: Any) -> None:
        """Keep a fact about a server or the run."""
        self.facts[name] = fact
        self._write()

    def _write(self) -> None:
        content = {"setup": self.setup, "facts": self.facts, "cells": msgspec.to_builtins(self.cells)}
        aside = self._path.with_suffix(".partial")
        aside.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(aside, self._path)
