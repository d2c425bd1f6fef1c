"""The table of docs/results.md: the right figures in the right columns, made unattended."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import (
    BEGIN,
    BUILT_IN,
    END,
    NAMES,
    Job,
    _stage_seconds,
    main,
    markdown,
    splice,
)
from serving.host import describe_host

Run = Callable[..., subprocess.CompletedProcess[str]]


def variant(value: float, num_bytes: int, p50_ms: float | None, speed_up: float | None) -> dict[str, Any]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "bytes": num_bytes, "p50_ms": p50_ms} | {
        "speed_up": speed_up
    }


def row(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "key": "stale",
        "command": f"compressor run {name}",
        "metric": "macro_f1",
        "point": "batch 1, one CPU thread",
        "rows": {"train": 6920, "validation": 872, "test": 1821},
        "variants": {
            "teacher": variant(0.9, 90_000_000, 12.0, 1.0),
            "student": variant(0.88, 69_000_000, 6.0, 2.0),
            "none": variant(0.87, 69_000_000, None, None),
            "fp32": variant(0.881, 69_000_000, 4.0, 3.0),
            "int8": variant(0.879, 17_500_000, 2.0, 6.0),
        },
        "gates": [
            {"name": "export_logit_difference", "verdict": "passed"},
            {"name": "quantisation_metric_drop", "verdict": "inconclusive"},
        ],
        "seconds": 605.0,
        "environment": {**describe_host(), "cpu_model": "A CPU", "versions": {"torch": "2.13.0"}},
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_valid_and_reads_the_given_folder(name: str, tmp_path: Path) -> None:
    """Catches a recipe that fails in the middle of the night, or that reads another data set."""
    recipe = Job(name, tmp_path, tmp_path / "work").recipe()
    (task,) = recipe.tasks.values()
    assert recipe.name == name
    assert task.data == (BUILT_IN if name == BUILT_IN else f"{tmp_path}/{name}")


def test_a_row_is_done_whatever_the_place_of_its_data(tmp_path: Path) -> None:
    """Catches hours of work repeated because a folder moved, or skipped although the recipe changed."""
    here = Job("sst2", tmp_path, tmp_path)
    assert here.key() == Job("sst2", tmp_path / "elsewhere", tmp_path).key()
    assert here.key() != Job("sst2", tmp_path, tmp_path, ("seed=1",)).key()


def test_the_table_has_every_figure_in_its_column() -> None:
    """Catches a control sold as a student, and a speed-up of one artifact sold as another's."""
    lines = markdown([row("sst2")]).splitlines()
    assert lines[2] == (
        "| sst2 | 6,920, 872, 1,821 | macro F1 | 0.900 [0.890, 0.910] | 0.880 [0.870, 0.890] | "
        "0.870 [0.860, 0.880] | 0.879 [0.869, 0.889] |"
    )
    assert lines[6] == ("| sst2 | 90.0 MB | 17.5 MB | 12.0 | 4.0 | 2.0 | 3.0× | 6.0× | inconclusive | 10 min 5 s |")
    assert {line.count("|") for line in lines[:3]} == {8}
    assert {line.count("|") for line in lines[4:7]} == {11}
    assert "Measured on A CPU" in "\n".join(lines)


def test_of_several_machines_each_row_names_its_own() -> None:
    """Catches milliseconds of one CPU read as another's."""
    there = row("trec6")
    there["environment"] = {**there["environment"], "cpu_model": "Another"}
    num_cpus = there["environment"]["available_cpus"]
    text = markdown([row("supportdesk"), row("sst2"), there])
    first, second = (f"{name}, {num_cpus} CPUs, torch 2.13.0" for name in ("A CPU", "Another"))
    assert f"Measured on {first} (supportdesk, sst2); on {second} (trec6)." in text


def test_the_table_replaces_what_stands_between_the_markers() -> None:
    """Catches a second table below the first, and words of the page that get lost."""
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert splice(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert splice(splice(page, "new"), "new") == splice(page, "new")
    with pytest.raises(ValueError, match="expected one"):
        splice("no markers", "new")


def test_the_time_of_a_run_counts_every_stage_once(tmp_path: Path) -> None:
    """Catches a resumed run that claims to have taken the seconds of its last call only."""
    events = [
        {"event": "run started"},
        {"event": "stage finished", "stage": "data-1", "seconds": 1.5},
        {"event": "run started"},
        {"event": "stage finished", "stage": "teacher-2", "seconds": 40.0},
        {"event": "run finished"},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert _stage_seconds(tmp_path / "log.jsonl") == 41.5


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The script with everything it writes below a temporary folder."""

    def run(data: Path, *options: str) -> None:
        places = {"--data": data, "--work": tmp_path / "work", "--results": tmp_path / "rows"}
        given = [part for name, place in places.items() for part in (name, str(place))]
        monkeypatch.setattr("sys.argv", ["results", *given, "--docs", str(tmp_path / "results.md"), *options])
        main()

    return run


def test_a_failed_run_stops_no_other_and_is_named(
    call: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a night lost to the first data set's error, and a failure that nobody is told of."""
    tried: list[str] = []

    def fail(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        tried.append(Path(command[2]).stem)
        return subprocess.CompletedProcess(command, returncode=2)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(SystemExit, match="sst2, mrpc"):
        call(tmp_path, "--only", "sst2", "mrpc")
    assert tried == ["sst2", "mrpc"]


def test_what_is_done_is_not_run_again(
    call: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a script that starts anew after every interruption."""
    (tmp_path / "rows").mkdir()
    done = {**row("sst2"), "key": Job("sst2", tmp_path, tmp_path).key()}
    (tmp_path / "rows" / "sst2.json").write_text(json.dumps(done))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("ran a data set that was done"))
    call(tmp_path, "--only", "sst2")
    assert "| sst2 |" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_a_quick_run_fills_the_table(
    call: Callable[..., None], toy_data: Path, toy_checkpoint: Path, tmp_path: Path
) -> None:
    """Catches a report whose fields the table no longer finds; rows must not tell of folders of this machine."""
    call(
        toy_data, "--quick", "--only", "trec6", "--set", f"teacher.model={toy_checkpoint}", "--set", "student.layers=1"
    )
    kept = json.loads((tmp_path / "rows" / "trec6.json").read_text())
    assert set(kept["variants"]) == {"teacher", "student", "none", "fp32", "int8"}
    assert str(toy_data) not in json.dumps(kept)
    assert "| trec6 | 60, 30, 30 | accuracy |" in (tmp_path / "results.md").read_text()
