"""The section on averaging: the right curve under the right name, and words that say what was seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser

from compressor.report.flatness import FlatnessView, flatness_view
from compressor.report.page import render, write_page

DISTANCES = [-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2]
POSITIONS = [-0.5, 0.0, 0.5, 1.0, 1.5]


def rises(curvature: float) -> list[list[float]]:
    """Twenty directions: bowls, each a little steeper than the one before, with a slope of their own."""
    return [[curvature * (1 + number / 20) * d * d + (number - 6) / 200 * d for d in DISTANCES] for number in range(20)]


def with_flatness(report: dict[str, Any]) -> dict[str, Any]:
    """The report of a student trained by kd and swa: the average is flatter on train, steeper on test."""
    score = {"metric": "accuracy", "value": 0.682, "low": 0.648, "high": 0.714}
    report["flatness"] = {
        "num_directions": 20,
        "seed": 0,
        "rows": {"intent": {"train": 48, "test": 47}},
        "distances": DISTANCES,
        "average": {"loss": {"train": 0.41, "test": 1.1}, "rise": {"train": rises(4.0), "test": rises(9.0)}},
        "last": {"loss": {"train": 0.52, "test": 1.21}, "rise": {"train": rises(8.0), "test": rises(8.5)}},
        "line": {
            "positions": POSITIONS,
            "train": [0.7, 0.52, 0.44, 0.41, 0.43],
            "test": [1.4, 1.21, 1.09, 1.1, 1.2],
        },
        "tasks": {
            "intent": {
                "metric": "accuracy",
                "average": score,
                "last": score | {"value": 0.671},
                "difference": {"value": 0.011, "low": -0.006, "high": 0.028},
            }
        },
    }
    report["student"]["method"] = {"kd": {}, "swa": {}}
    report["student"]["training"][""]["swa"] = {
        "start": 432,
        "every": 1,
        "snapshots": 433,
        "always_average": {"score": 0.69, "intent_loss": 1.02, "intent_accuracy": 0.69},
        "always_last": {"score": 0.66, "intent_loss": 1.18, "intent_accuracy": 0.66},
        "selected": "average",
    }
    return report


@pytest.fixture
def view(report: dict[str, Any]) -> FlatnessView:
    found = flatness_view(with_flatness(report))
    assert found is not None
    return found


def test_a_report_without_swa_has_no_such_section(report: dict[str, Any]) -> None:
    """Catches an empty section, or a page that cannot be drawn for every other method."""
    assert flatness_view(report) is None
    assert flatness_view(report | {"flatness": None}) is None
    assert 'id="flatness"' not in render(report)
    assert 'id="flatness"' in render(with_flatness(report))


def test_each_curve_is_the_mean_over_the_directions_of_its_own_centre_and_split(view: FlatnessView) -> None:
    """Catches curves of the last iterate under the average's name, or train figures in the test plot."""
    mean_steepness = 1 + 9.5 / 20
    for figure, (average, last) in zip(view.around, ((4.0, 8.0), (9.0, 8.5)), strict=True):
        named = {trace["name"]: trace for trace in figure["data"] if "name" in trace}
        for name, curvature in (("around the average", average), ("around the last iterate", last)):
            assert named[name]["x"] == DISTANCES
            assert named[name]["y"] == pytest.approx(
                [curvature * mean_steepness * d * d + 3.5 / 200 * d for d in DISTANCES]
            )
    assert [figure["layout"]["title"]["text"] for figure in view.around] == [
        "rise of the train loss",
        "rise of the test loss",
    ]


def test_a_band_goes_there_at_its_upper_and_back_at_its_lower_end(view: FlatnessView) -> None:
    """A band drawn in one direction only is a zigzag, and its ends swapped hide the curve behind it."""
    band, curve = view.around[0]["data"][:2]
    up, down = band["y"][: len(DISTANCES)], band["y"][len(DISTANCES) :][::-1]
    assert band["x"] == [*DISTANCES, *reversed(DISTANCES)]
    assert all(low <= mean <= high for low, mean, high in zip(down, curve["y"], up, strict=True))
    assert down == pytest.approx(np.percentile(rises(4.0), 10, axis=0).tolist())
    assert up == pytest.approx(np.percentile(rises(4.0), 90, axis=0).tolist())


def test_the_words_say_where_it_rises_less_whichever_it_is(view: FlatnessView) -> None:
    """Catches a caption that praises the average whatever was measured."""
    train, test, line = view.seen
    assert "train loss changes by +0.236 around the average and by +0.472 around the last iterate" in train
    assert "in 20 of 20 directions" in train
    assert "test loss changes by +0.531 around the average and by +0.502" in test
    assert "in 0 of 20 directions" in test
    assert "the train loss is 0.410 at the average and 0.520 at the last iterate" in line
    assert "lowest of the points: 0.410 at the average" in line
    assert "lowest of the points: 1.090 at position 0.5" in line


def test_the_table_has_both_weights_the_choice_and_their_difference(view: FlatnessView) -> None:
    """Catches figures of one set of weights in the row of the other."""
    rows = {row[0]: row[1:] for row in view.table.rows}
    assert rows["always the average"] == ("1.020", "0.690", "0.682 [0.648, 0.714]")
    assert rows["always the last iterate"] == ("1.180", "0.660", "0.671 [0.648, 0.714]")
    assert rows["selected by validation: the average"] == rows["always the average"]
    assert rows["average minus last, same test texts"][-1] == "+0.011 [-0.006, +0.028]"
    assert view.table.columns == ("weights", "validation loss", "validation: accuracy", "test: accuracy")


def test_several_tasks_have_rows_of_their_own(report: dict[str, Any]) -> None:
    """Catches the figures of one task under another's name."""
    found = with_flatness(report)
    tasks = found["flatness"]["tasks"]
    tasks["urgency"] = tasks["intent"] | {"metric": "pearson", "average": tasks["intent"]["average"] | {"value": 0.5}}
    found["flatness"]["rows"]["urgency"] = {"train": 20, "test": 21}
    view = flatness_view(found)
    assert view is not None
    assert [row[0] for row in view.table.rows] == ["intent"] * 4 + ["urgency"] * 4
    assert view.table.rows[4][-1].startswith("0.500")
    assert "48 train texts, 47 test texts, 20 train texts and 21 test texts (per task)" in view.sizes


@pytest.mark.parametrize("width", [400, 1280])
def test_the_section_is_drawn_and_fits(chromium: Browser, report: dict[str, Any], tmp_path: Path, width: int) -> None:
    """A script that stops at the bands, or a plot wider than a phone, shows in a browser only."""
    write_page(with_flatness(report), tmp_path / "report.html")
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto((tmp_path / "report.html").as_uri())
    section = tab.locator("#flatness")
    assert section.locator(".plot .scatterlayer .lines path.js-line").count() == 2 * 4 + 2
    assert section.locator(".plot .scatterlayer .fills path").count() == 4
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()
    assert complaints == []
