"""comparison.html as a reader sees it: a real browser, from a file, without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from compressor.comparison.page import write_comparison_page
from compressor.comparison.wording import headline

Open = Callable[[dict[str, Any]], Page]


@pytest.fixture
def open_page(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a comparison's page; every complaint of the browser and every request fails the test at its end."""
    context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 900})
    target = tmp_path / "comparison.html"
    complaints: list[str] = []

    def opened(result: dict[str, Any]) -> Page:
        write_comparison_page(result, target)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: complaints.append(request.url))
        tab.goto(target.as_uri())
        return tab

    yield opened
    context.close()
    assert set(complaints) == {target.as_uri()}


def test_every_training_and_every_difference_is_drawn(open_page: Open, result: dict[str, Any]) -> None:
    """Prevents an empty box, a seed that is not drawn, and an interval without its bar."""
    tab = open_page(result)
    assert tab.get_by_role("heading", name=headline(result)).is_visible()
    seeds, to_none, to_kd = (tab.locator("#task-intent .plot").nth(place) for place in range(3))
    assert seeds.locator(".scatterlayer .points path.point").count() == 6 * 5
    assert seeds.locator(".scatterlayer .lines path.js-line").count() == 5 + 6  # a line per seed, a bar per mean
    assert to_none.locator(".scatterlayer .points path.point").count() == 5
    assert to_none.locator(".scatterlayer .errorbar").count() == 5
    assert to_kd.locator(".scatterlayer .errorbar").count() == 4
    assert [tick.strip() for tick in to_none.locator(".ytick").all_text_contents()][1] == "swa"


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_never_scrolls_sideways(open_page: Open, several_tasks: dict[str, Any], width: int) -> None:
    """Prevents a wide table that pushes the text off a phone's screen."""
    several_tasks["failed"] = [{"arm": "kd", "seed": 1, "error": "unbroken" * 60, "is_users": True}]
    tab = open_page(several_tasks)
    tab.set_viewport_size({"width": width, "height": 800})
    tab.wait_for_function(f"document.querySelector('.plot .main-svg').getBoundingClientRect().right <= {width}")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("section[id^=task-]").count() == 2


def test_labels_with_markup_are_drawn_as_text(open_page: Open, result: dict[str, Any]) -> None:
    """Prevents a label of an arms file from being run as HTML by the page or by plotly."""
    label = "<i>a</i> & <script>alert(1)</script>"
    result["arms"][2]["label"] = label
    for entry in result["comparisons"]:
        entry["method"] = label if entry["method"] == "swa" else entry["method"]
    result["protocol"]["main"]["method"] = label
    tab = open_page(result)
    assert label[:20] in "".join(tab.locator("#task-intent .ytick").all_text_contents())
    assert tab.get_by_role("cell", name=label, exact=True).first.is_visible()


def test_a_comparison_without_results_opens(open_page: Open, result: dict[str, Any]) -> None:
    """Prevents a page that cannot be written when every cell of an arm failed."""
    missing = {"seeds": 0, "verdict": "missing"}
    names = ("method", "baseline", "task", "role")
    result["comparisons"] = [{name: entry[name] for name in names} | missing for entry in result["comparisons"]]
    for arm in result["arms"]:
        arm |= {"tasks": {}, "seeds": [], "runs": None, "steps": None, "epochs": None, "seconds": None}
    result["failed"] = [{"arm": "swa", "seed": 0, "error": "no room", "is_users": True}]
    tab = open_page(result)
    assert tab.get_by_text("swa, seed 0: no room").is_visible()


def test_added_texts_are_shown_where_there_are_some(open_page: Open, result: dict[str, Any]) -> None:
    """Prevents a heading over nothing, and figures that only the JSON has."""
    assert open_page(result).locator("#added").count() == 0
    result["arms"][1]["added"] = {"intent": {"0": {"candidates": 1296, "kept": 648, "share": 0.5, "rho": 0.36}}}
    assert open_page(result).locator("#added td").all_text_contents()[-4:] == ["1,296", "648", "50%", "0.36"]
