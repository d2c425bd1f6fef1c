"""The page as a reader sees it: a real browser, from a file, without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from compressor.report.headline import headline
from compressor.report.page import write_page

Open = Callable[[dict[str, Any]], Page]


@pytest.fixture
def open_report(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a report's page; every complaint of the browser and every request fails the test at its end."""
    context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 900})
    target = tmp_path / "report.html"
    complaints: list[str] = []

    def opened(report: dict[str, Any]) -> Page:
        write_page(report, target)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: complaints.append(request.url))
        tab.goto(target.as_uri())
        return tab

    yield opened
    context.close()
    assert set(complaints) == {target.as_uri()}


def test_the_page_opens_from_a_file_and_draws_everything(open_report: Open, report: dict[str, Any]) -> None:
    """A page that needs a network, or whose script stops, shows empty boxes that no HTML test notices."""
    tab = open_report(report)
    assert tab.get_by_role("heading", name=headline(report)).is_visible()
    tradeoff = tab.locator("#tradeoff .plot")
    assert tradeoff.locator(".scatterlayer .points path.point").count() == 4
    assert tradeoff.locator(".scatterlayer .errorbar").count() == 4
    assert tradeoff.locator(".scatterlayer .lines path.js-line").count() == 1
    assert tab.locator("#classes .scatterlayer .points path.point").count() == 24
    assert tab.locator("#training .scatterlayer .lines path.js-line").count() == 6
    assert tab.locator(".plot").count() == tab.locator(".plot .main-svg .cartesianlayer").count() == 4


def test_labels_with_markup_are_drawn_as_text(open_report: Open, report: dict[str, Any]) -> None:
    """Plotly reads HTML in its texts: an escaped page with an unescaped plot is still open to a label."""
    for model in ("student", "teacher"):
        report[model]["tasks"]["intent"]["per_class"][0]["label"] = "<b>5</b> < 6 & <script>alert(1)</script>"
    tab = open_report(report)
    assert "<b>5</b> < 6 & <script>" in "".join(tab.locator("#classes .ytick").all_text_contents())


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_never_scrolls_sideways(open_report: Open, several_tasks: dict[str, Any], width: int) -> None:
    """On a phone a wide table must scroll in its own box, not push the text off the screen."""
    several_tasks["examples"][0]["text"] = ["unbroken" * 60]
    tab = open_report(several_tasks)
    tab.set_viewport_size({"width": width, "height": 800})
    tab.wait_for_function(f"document.querySelector('.plot .main-svg').getBoundingClientRect().right <= {width}")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_on_a_phone_names_stand_in_a_legend(open_report: Open, report: dict[str, Any]) -> None:
    """At 400 pixels the names beside the points overlap and nobody can tell which point is which."""
    tab = open_report(report)
    names = tab.locator("#tradeoff .plot .annotation")
    assert names.count() == 5
    tab.set_viewport_size({"width": 400, "height": 800})
    tab.locator("#tradeoff .plot .legend").wait_for()
    assert names.count() == 0
    assert tab.locator("#tradeoff .plot .legend .traces").count() == 5


def test_a_page_without_measurements_opens(open_report: Open, report: dict[str, Any]) -> None:
    """Without a benchmark there is no plot to draw; the script must not stumble over that."""
    tab = open_report(report | {"measurements": [], "teacher": None})
    assert tab.get_by_text("Nothing was timed").is_visible()
    assert tab.locator("#classes .scatterlayer .points path.point").count() == 12
