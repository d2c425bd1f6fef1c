"""A small finished comparison, and what lies in the folder of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROWS = 120


@dataclass(frozen=True)
class Compared:
    """A finished comparison of `none` and `kd` over two seeds.

    Attributes:
        toy: data and recipe.
        folder: of the comparison.
        result: what --json printed.
        said: stderr of the call.
    """

    toy: Any
    folder: Path
    result: dict[str, Any]
    said: str

    def stages(self) -> dict[str, int]:
        """Every stage with the time of its last change."""
        return {path.name: path.stat().st_mtime_ns for path in (self.folder / "stages").glob("*-*")}

    def weights(self) -> dict[str, str]:
        """sha256 of every cell's student, by the cell's name."""
        return {
            cell.name: hashlib.sha256((cell / "student" / "model.safetensors").read_bytes()).hexdigest()
            for cell in sorted((self.folder / "cells").iterdir())
        }


def teachable(toy: Any, rows: list[dict[str, Any]]) -> Any:
    """Few rows, and a recipe whose student learns something of them in a second."""
    toy.write_data(rows)
    toy.write(training={**toy.values()["training"], "learning_rate": 5e-4})
    return toy


@pytest.fixture
def toy(toy: Any, make_rows: Callable[..., Any]) -> Any:
    """Data and recipe, nothing run yet."""
    return teachable(toy, make_rows(ROWS))


@pytest.fixture(scope="session")
def compared(
    tmp_path_factory: pytest.TempPathFactory,
    make_toy: Callable[[Path], Any],
    make_rows: Callable[..., Any],
    compressor: Callable[..., Any],
) -> Compared:
    """The comparison; tests may extend it, and must not change what is there."""
    toy = teachable(make_toy(tmp_path_factory.mktemp("compared")), make_rows(ROWS))
    folder = toy.folder / "comparison"
    done = compressor("compare", toy.recipe, "--methods", "none,kd", "--seeds", 2, "--output", folder, "--json")
    assert done.code == 0, done.err
    return Compared(toy, folder, json.loads(done.out), done.err)
