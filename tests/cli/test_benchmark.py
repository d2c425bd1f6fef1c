"""`compressor benchmark` as its page shows it: tables for people, data for programs, the waterfall on a real run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "benchmarking.md"


def _commands() -> list[str]:
    (block,) = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def results(
    own_run: Any, compressor: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What every documented command printed; the waterfall is asked for with the smallest budget."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(own_run.run)
    monkeypatch.chdir(tmp_path)
    found = {}
    for command in _commands():
        done = compressor(*shlex.split(command)[1:], "--set", "benchmark.waterfall_seconds=0.01")
        assert done.code == 0, done.err
        found[command] = done
    return found


def test_the_documented_commands_print_tables_and_data(results: dict[str, Any]) -> None:
    """A page that shows what the program no longer does."""
    plain, data = results.values()
    assert "padded torch teacher" in plain.out
    assert "tokenise, ms" in plain.out
    assert "CPU-hours" in plain.out  # a header may be broken over lines
    found = json.loads(data.out)
    assert {row["variant"] for row in found["measurements"]} == {"teacher", "student", "bundle"}
    assert [step["name"] for step in found["waterfall"]["steps"]][:4] == ["padded", "torch", "student", "fp32"]
    assert set(found["timing"]) == {"conditions", "drift", "notes"}


def test_a_price_changes_no_measurement(own_run: Any, compressor: Callable[..., Any]) -> None:
    """A run that is timed again for a price would show other figures beside it."""
    before = own_run.stages()
    done = compressor("run", own_run.run, "--set", "benchmark.price_per_cpu_hour=0.05")
    assert done.code == 0, done.err
    assert own_run.new_stages(before) == set()
