"""SDA's stability test: the spreads by hand, and the whole script on toys."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sda_stability import main, spreads

LABELS = {"billing": "money refund", "delivery": "late order", "account": "cancel account"}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder with `snli`: pairs whose words tell their label."""
    folder = tmp_path / "data" / "snli"
    folder.mkdir(parents=True)
    for start, (split, number) in enumerate((("train", 60), ("validation", 24), ("test", 24))):
        rows = []
        for place in range(number):
            label = list(LABELS)[place % 3]
            first, second = LABELS[label].split()
            rows.append({"text_a": f"{first} {1000 * start + place}", "text_b": f"{second} help", "label": label})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


def test_the_ratio_is_the_controls_spread_over_the_others() -> None:
    """Catches a ratio upside down: it would say that the method is as unstable as it is stable."""
    random = np.random.default_rng(0)
    steady = random.normal(size=40)
    found = spreads(3 * steady, steady[::-1])
    assert found["ratio"]["value"] == pytest.approx(3.0)
    assert 1.0 < found["ratio"]["low"] < 3.0 < found["ratio"]["high"]
    assert found["brown_forsythe_p"] < 0.001
    assert found["standard_deviation"]["none"] == pytest.approx(3 * steady.std(ddof=1))


def test_equal_spreads_are_not_told_apart() -> None:
    """Catches an interval that resamples the two arms by different orders, or a p of another test."""
    values = np.random.default_rng(1).normal(size=20)
    found = spreads(values, values + 5.0)
    assert found["ratio"]["value"] == pytest.approx(1.0)
    assert found["ratio"]["low"] == pytest.approx(found["ratio"]["high"])
    assert found["brown_forsythe_p"] == pytest.approx(1.0)


def test_a_quick_run_leaves_figures_and_a_second_one_trains_nothing(
    pairs: Path,
    toy_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a study that breaks when it writes its result, and one that starts anew after an interruption."""
    places = {"--data": pairs, "--work": tmp_path / "work", "--output": tmp_path / "sda.json"}
    options = [str(part) for option in places.items() for part in option]
    options += ["--docs", str(tmp_path / "results.md"), "--model", str(toy_checkpoint), "--dtype", "fp32"]
    main([*options, "--quick"])
    result = json.loads((tmp_path / "sda.json").read_text())
    assert result["orders"] == 2
    assert len(result["accuracy"]["sda"]) == 2
    assert result["difference"]["value"] == pytest.approx(result["mean"]["sda"] - result["mean"]["none"])
    assert "ratio" not in result
    assert "| none |" in (tmp_path / "results.md").read_text()
    monkeypatch.setattr("compressor.distillation.training.train", lambda *_: pytest.fail("trained what was done"))
    capsys.readouterr()
    main([*options, "--quick"])
    assert "> training" not in capsys.readouterr().err
    folders = {path.name.split("-")[1] for path in (tmp_path / "work" / "stages").glob("student-*")}
    assert folders == {"none", "sda"}
