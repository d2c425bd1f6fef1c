"""The page at `/` as a person sees it: a real browser at a real server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from serving.bundle import Bundle
from serving.engine.contract import Overloaded
from serving.engine.dummy import DummyEngine
from tests.serving.http.conftest import RunningServer

Open = Callable[[RunningServer], Page]


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Open]:
    """Opens the page; whatever the browser complains of, and every foreign request, fails the test at its end."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []

    def opened(server: RunningServer) -> Page:
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "request", lambda request: None if request.url.startswith(server.url) else complaints.append(request.url)
        )
        tab.goto(server.url)
        return tab

    yield opened
    context.close()
    foreseen = "Failed to load resource: the server responded with a status of"  # the browser's word on every refusal
    assert [line for line in complaints if foreseen not in line and not line.startswith("http://127.0.0.1:")] == []


def test_a_text_is_answered_with_bars_and_times(
    open_page: Open, run_server: Callable[..., RunningServer], bundle: Bundle
) -> None:
    """A script that its own policy forbids shows a form that does nothing."""
    tab = open_page(run_server(DummyEngine(bundle)))
    expect(tab.get_by_role("heading", name="toy")).to_be_visible()
    field = tab.get_by_label("text", exact=True)
    expect(field).to_be_focused()
    field.fill("refund please")
    tab.keyboard.press("Control+Enter")
    expect(tab.locator("article")).to_have_count(3)
    expect(tab.locator("#timing")).to_contain_text("Answered in")
    expect(tab.locator("#timing")).to_contain_text("model")
    answer = bundle.predict(["refund please"])[0]
    intent = tab.locator("article").filter(has=tab.get_by_role("heading", name="intent"))
    expect(intent.locator("strong")).to_have_text(answer["intent"]["label"])
    expect(intent.locator("li")).to_have_count(3)
    expect(intent.locator("li.chosen .number")).to_have_text(f"{answer['intent']['score'] * 100:.1f} %")
    widths = intent.locator(".bar").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert widths == sorted(widths, reverse=True)
    row = intent.locator("li").first.bounding_box()
    assert row is not None
    assert widths[0] / row["width"] == pytest.approx(answer["intent"]["score"], abs=0.02)


def test_a_model_of_pairs_has_two_fields(
    open_page: Open, run_server: Callable[..., RunningServer], pair_bundle_folder: Path
) -> None:
    """With one field every answer would be a refusal."""
    tab = open_page(run_server(DummyEngine(Bundle.load(pair_bundle_folder))))
    tab.get_by_label("premise").fill("refund")
    tab.get_by_label("hypothesis").fill("thanks")
    tab.get_by_role("button", name="Answer").click()
    expect(tab.locator("article")).to_have_count(1)


def test_refusals_are_shown_and_markup_stays_text(open_page: Open, run_server: Callable[..., RunningServer]) -> None:
    """An error that only the console sees looks like a page that hangs."""
    engine = DummyEngine()
    engine.failure = lambda number, work: Overloaded(2.0, "<b>full</b>") if number == 0 else None
    tab = open_page(run_server(engine))
    tab.get_by_label("text", exact=True).fill("<img src=x onerror=alert(1)>")
    tab.get_by_role("button", name="Answer").click()
    expect(tab.get_by_role("alert")).to_have_text("<b>full</b>; try again in 2 s (429 overloaded)")
    expect(tab.locator("article")).to_have_count(0)
    tab.get_by_role("button", name="Answer").click()
    expect(tab.locator("article")).to_have_count(1)
    expect(tab.get_by_role("alert")).to_be_hidden()


def test_a_key_is_asked_for_where_one_is_needed(
    open_page: Open, run_server: Callable[..., RunningServer], tmp_path: Path
) -> None:
    """The page itself is open, the model is not."""
    (tmp_path / "keys").write_text(f"me {hashlib.sha256(b'sesame').hexdigest()}\n")
    tab = open_page(run_server(DummyEngine(), keys_file=tmp_path / "keys"))
    expect(tab.get_by_role("alert")).to_contain_text("401")
    tab.get_by_label("API key").fill("sesame")
    tab.keyboard.press("Enter")
    tab.get_by_label("text", exact=True).fill("refund")
    tab.keyboard.press("Control+Enter")
    expect(tab.locator("article")).to_have_count(1)


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_never_scrolls_sideways(
    open_page: Open, run_server: Callable[..., RunningServer], bundle: Bundle, width: int
) -> None:
    """On a phone long words must break, not push the button off the screen."""
    tab = open_page(run_server(DummyEngine(bundle)))
    tab.set_viewport_size({"width": width, "height": 800})
    tab.get_by_label("text", exact=True).fill("unbroken" * 80)
    tab.get_by_role("button", name="Answer").click()
    expect(tab.locator("article")).to_have_count(3)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_can_be_left_out(run_server: Callable[..., RunningServer], chromium: Browser) -> None:
    """Not every operator wants one."""
    tab = chromium.new_page()
    reply: Response | None = tab.goto(run_server(DummyEngine(), page=False).url)
    assert reply is not None
    assert reply.status == 404
    tab.close()
