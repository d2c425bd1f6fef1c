"""The drawing of the curves over numbers of labels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from benchmarks.cells import HERE
from benchmarks.l2a import ARMS
from benchmarks.label_curves import JUDGED, curves, variants
from benchmarks.label_plot import COLOURS, PANELS, _spread, draw


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two numbers of labels of one pair; two arms at both, one at the first alone."""

    def keep(labels: int, scores: Mapping[str, list[float]]) -> None:
        arms = [
            {"label": name, "tasks": {"intent": {"per_seed": {str(seed): one for seed, one in enumerate(of)}}}}
            for name, of in scores.items()
        ]
        facts = {
            "arms": arms,
            "seeds": [0, 1],
            "tasks": {"intent": {"rows": {"test": 100}}},
            "environment": {"cpu_model": "toy", "available_cpus": 1},
        }
        (tmp_path / f"l2a_bank_{labels}.json").write_text(json.dumps(facts))

    keep(60, {"none": [0.2, 0.3], JUDGED: [0.3, 0.5], "i random choice": [0.1, 0.1]})
    keep(120, {"none": [0.4, 0.4], JUDGED: [0.5, 0.7]})
    return tmp_path


def test_every_arm_has_a_line_and_the_simplest_have_their_names(results: Path, tmp_path: Path) -> None:
    """Catches an arm that is missing where another number of labels lacks it, a panel of nothing, and lost names."""
    draw(results, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert text.count('<g id="axes_') == 1
    assert re.findall(r">([^<>]*(?:none|l2a|choice)[^<>]*)</text>", text) == ["a none", JUDGED]
    assert [f">{word}</text>" in text for word in ("bank texts, twelve intents", "accuracy, points")] == [True, True]
    assert re.findall(r">(\d+)(?=</text>|</tspan>)", text)[:2] == ["60", "120"]
    assert text.count("2 seeds") == 2
    for colour, points in ((COLOURS["a none"], 2), (COLOURS[JUDGED], 2), ("#c8c8c8", 1)):
        (path,) = re.findall(rf'd="([^"]*)" clip-path[^>]*stroke: {colour}[^>]*stroke-linecap: square', text)
        assert len(re.findall(r"[ML]", path)) == points


def test_the_same_figures_make_the_same_file(results: Path, tmp_path: Path) -> None:
    """Catches dates and random names, which would change the file in every run."""
    for name in ("one.svg", "two.svg"):
        draw(results, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_names_keep_their_order_and_their_distance() -> None:
    """Catches names on top of one another, and names that are moved though they have room."""
    placed = _spread({"a": 1.0, "b": 1.1, "c": 1.2, "d": 9.0}, room=1.0)
    assert list(placed) == ["a", "b", "c", "d"]
    assert placed == pytest.approx({"a": 0.1, "b": 1.1, "c": 2.1, "d": 9.0})


def test_the_drawing_of_the_docs_is_that_of_the_kept_results(tmp_path: Path) -> None:
    """Catches a drawing that was not made again with its tables."""
    draw(HERE / "results", tmp_path / "few-labels.svg")
    drawn, kept = (
        re.split(r"(-?\d+\.\d+)", (at / "few-labels.svg").read_text()) for at in (tmp_path, HERE.parent / "docs")
    )
    assert drawn[::2] == kept[::2]
    assert [float(number) for number in drawn[1::2]] == pytest.approx(
        [float(number) for number in kept[1::2]], abs=0.01
    )
    for prefix in PANELS:
        assert curves(HERE / "results", prefix) in (HERE.parent / "docs" / "results.md").read_text()
    plain = list(yaml.safe_load(ARMS.read_text()))
    assert variants(HERE / "results", "l2a_bank_variants", plain=plain) in (HERE.parent / "docs/results.md").read_text()
