"""The cost of the methods: what is held, what is timed, and ratios that pair the right processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import methods_cost
from benchmarks.methods_cost import ARMS, CONTROL, _parse, held_bytes, main, markdown, measure, peak_memory, summarise

ROW = {"peak_bytes": 100, "held_bytes": 0, "device_bytes": None}


@pytest.fixture
def small(toy_checkpoint: Path) -> list[str]:
    """Options of a training of a second."""
    options = {"--model": toy_checkpoint, "--layers": 1, "--steps": 8, "--batch-size": 2, "--dtype": "fp32"}
    return [str(part) for option in options.items() for part in option]


def test_each_method_holds_as_many_copies_as_the_docs_say(small: list[str]) -> None:
    """Catches a second copy in SDA's or SWA's memory: for a large student it decides whether it can be trained."""
    found = {arm: measure(arm, _parse(small)) for arm in (CONTROL, "swa", "sda", "sda:k=3", "sda:k=all", "sdv:k=3")}
    copy = found["swa"]["held_bytes"]
    assert found[CONTROL]["held_bytes"] == 0
    assert copy > 4 * 32 * 32
    assert found["sda"]["held_bytes"] == found["sda:k=all"]["held_bytes"] == copy
    assert found["sda:k=3"]["held_bytes"] in (3 * copy, 4 * copy)
    assert found["sdv:k=3"]["held_bytes"] in (3 * copy, 4 * copy)
    assert all(row["step_seconds"] > 0 and row["peak_bytes"] > 1e7 for row in found.values())


def test_the_watch_leaves_the_training_as_it_is(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a rule that is timed but no longer asked: swa would then cost nothing and average nothing."""
    rules: list[Any] = []
    original = methods_cost.StepWatch.__init__

    def remember(self: Any, rule: Any, *arguments: Any, **named: Any) -> None:
        rules.append(rule)
        original(self, rule, *arguments, **named)

    monkeypatch.setattr(methods_cost.StepWatch, "__init__", remember)
    measure("swa:every=2", _parse(small))
    assert rules[0].mean.count == 3  # after steps 4, 6 and 8
    assert set(rules[0].facts()["swa"]) >= {"always_average", "always_last"}


def test_held_bytes_count_every_tensor_once() -> None:
    """Catches tensors that are counted twice because two names point at them."""
    tensor = torch.zeros(10)
    assert held_bytes({"a": [tensor, {"b": tensor}], "c": torch.zeros(3, dtype=torch.int64), "d": 5}) == 40 + 24


def test_peak_memory_is_read_in_bytes(tmp_path: Path) -> None:
    """Catches kilobytes that are taken for bytes, and a system without such a file."""
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t  99 kB\nVmHWM:\t   12 kB\n")
    assert peak_memory(tmp_path / "status") == 12 * 1024
    assert peak_memory(tmp_path / "missing") is None


def test_ratios_pair_an_arm_with_the_control_of_its_round() -> None:
    """Catches a ratio upside down, and rounds that are paired in the order of execution, which rotates."""
    rows = [
        {"arm": CONTROL, "round": 0, "step_seconds": 1.0, **ROW},
        {"arm": "sda", "round": 0, "step_seconds": 1.4, **ROW, "peak_bytes": 130},
        {"arm": "sda", "round": 1, "step_seconds": 14.0, **ROW, "peak_bytes": 150},
        {"arm": CONTROL, "round": 1, "step_seconds": 10.0, **ROW, "peak_bytes": 110},
    ]
    control, sda = summarise(rows)
    assert (control["arm"], sda["arm"]) == (CONTROL, "sda")
    assert sda["ratio"] == {"value": pytest.approx(1.4), "low": pytest.approx(1.4), "high": pytest.approx(1.4)}
    assert sda["more_bytes"] == 35
    assert control["ratio"]["value"] == 1.0


def _result(ratio: dict[str, float]) -> dict[str, Any]:
    arm = {"arm": "sda", "label": "sda", "step_ms": 10.0, "ratio": ratio, "goal": 1.5}
    settings = {"layers": 3, "batch_size": 16, "threads": 1, "dtype": "fp32", "device": "cpu", "steps": 48, "rounds": 5}
    memory = {"peak_bytes": 9e8, "more_bytes": 7e7, "held_bytes": 7e7}
    host = {"cpu_model": "A CPU", "available_cpus": 2}
    return {"arms": [arm | memory], "settings": settings, "host": host, "torch": "2"}


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(1.2, 1.5, "reached"), (1.4, 1.6, "undecided"), (1.51, 1.6, "missed")]
)
def test_a_goal_is_reached_or_missed_by_the_whole_interval_only(low: float, high: float, verdict: str) -> None:
    """Catches a goal that is called reached by luck of the middle."""
    table = markdown(_result({"value": 1.45, "low": low, "high": high}))
    assert f"| 1.5: {verdict} |" in table
    assert "| 900 MB | 70 MB | 70 MB |" in table


def test_finished_processes_are_not_run_again_and_more_rounds_can_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a script that starts anew after an interruption, or that mixes figures of other settings."""
    ran: list[str] = []

    def fake(arm: str, settings: dict[str, Any]) -> dict[str, Any]:
        ran.append(arm)
        return {"step_seconds": 1.0 + len(arm) / 10, **ROW}

    monkeypatch.setattr(methods_cost, "_in_a_process", fake)
    places = ["--output", str(tmp_path / "cost.json"), "--docs", str(tmp_path / "results.md")]
    main([*places, "--rounds", "1"])
    assert sorted(ran) == sorted(ARMS)
    main([*places, "--rounds", "2"])
    assert sorted(ran) == sorted([*ARMS, *ARMS])
    assert ran[len(ARMS)] != ran[0]
    main([*places, "--rounds", "2", "--layers", "1"])
    assert len(ran) == 4 * len(ARMS)
    result = json.loads((tmp_path / "cost.json").read_text())
    assert [arm["arm"] for arm in result["arms"]] == list(ARMS)
    assert "| sda(k=3,snapshots=cpu) |" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_a_process_of_its_own_gives_figures(small: list[str], tmp_path: Path) -> None:
    """Catches a child whose options or output the parent does not understand."""
    output = tmp_path / "cost.json"
    main([*small, "--rounds", "1", "--arms", "none", "sda", "--output", str(output), "--docs", str(tmp_path / "r.md")])
    result = json.loads(output.read_text())
    assert [arm["arm"] for arm in result["arms"]] == ["none", "sda"]
    assert result["arms"][1]["held_bytes"] > 0
