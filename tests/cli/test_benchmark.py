"""`compressor benchmark` as its page shows it: tables for people, data for programs, the waterfall on a real run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.printing import make_console, print_table
from compressor.report.table import Table

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
    assert "CPU-hours per million texts" in plain.out
    found = json.loads(data.out)
    assert {row["variant"] for row in found["measurements"]} == {"teacher", "student", "bundle"}
    assert [step["name"] for step in found["waterfall"]["steps"]][:4] == ["padded", "torch", "student", "fp32"]
    assert set(found["timing"]) == {"conditions", "drift", "notes"}


def test_no_table_is_folded_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Wide figures broke a header over two lines of a log or a pipe, and what searches for it found nothing."""
    header = "CPU-hours per million texts"
    figures = ("1234567.8 [1234567.7, 1234567.9]",) * 8
    print_table(Table(columns=(*figures[1:], header), rows=(figures,), text_columns=1), make_console())
    assert header in capsys.readouterr().out


def test_a_price_changes_no_measurement(own_run: Any, compressor: Callable[..., Any]) -> None:
    """A run that is timed again for a price would show other figures beside it."""
    before = own_run.stages()
    done = compressor("run", own_run.run, "--set", "benchmark.price_per_cpu_hour=0.05")
    assert done.code == 0, done.err
    assert own_run.new_stages(before) == set()
