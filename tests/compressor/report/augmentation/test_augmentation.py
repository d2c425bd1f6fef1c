"""The section on added texts: counts under the right name, words that follow from figures, texts that stay texts."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from compressor.report.augmentation import AugmentationView, augmentation_views
from compressor.report.page import render, write_page

EVIL = "<script>alert(1)</script>"
SHOWN = "&lt;script&gt;alert(1)&lt;/script&gt;"

Example = Callable[..., dict[str, Any]]


def view_of(facts: dict[str, Any]) -> AugmentationView:
    (view,) = augmentation_views({"augmentation": {"sentiment": facts}})
    return view


def section(report: dict[str, Any], facts: dict[str, Any]) -> str:
    """The section's HTML, spaces joined."""
    html = render({**report, "augmentation": {"sentiment": facts}})
    found = re.search(r'<section id="augmentation">.*?</section>', html, flags=re.DOTALL)
    assert found is not None
    return " ".join(found.group().split())


@pytest.mark.parametrize("empty", [None, {}, {"intent": {}}, {"intent": None}])
def test_a_report_without_added_texts_has_no_such_section(
    report: dict[str, Any], facts: dict[str, Any], empty: Any
) -> None:
    """Catches an empty section, or a page that cannot be drawn for every other method."""
    assert 'id="augmentation"' not in render(report)
    assert 'id="augmentation"' not in render(report | {"augmentation": empty})
    assert 'id="augmentation"' in render(report | {"augmentation": {"intent": facts}})


def test_every_text_that_was_made_is_accounted_for(facts: dict[str, Any]) -> None:
    """A count under another filter's name, or a filter that is missing, hides where the texts went."""
    rows = {row[0]: row[1:] for row in view_of(facts).counts.rows}
    assert rows == {
        "made": ("3,000", "100.0%"),
        "dropped: occurs in an evaluation split": ("0", "0.0%"),
        "dropped: the student has it already": ("12", "0.4%"),
        "dropped: repeats another": ("40", "1.3%"),
        "dropped: too many words changed": ("200", "6.7%"),
        "dropped: the teacher is unsure": ("300", "10.0%"),
        "candidates": ("2,448", "81.6%"),
        "kept": ("1,224", "40.8%"),
    }
    facts["counts"]["dropped"]["of_another_language"] = 1
    assert "dropped: of another language" in [row[0] for row in view_of(facts).counts.rows]


def test_the_verdict_names_who_chose(facts: dict[str, Any]) -> None:
    """The controls of the learned selector would pass for it."""
    assert view_of(facts).verdict == (
        "Beside its 200 labelled rows the student read 1,224 texts: of 3,000 texts that were made, 2,448 passed the "
        "filters and the learned selector kept 1,224 (50.0%)."
    )
    assert "and chance, class by class, kept" in view_of(facts | {"selector": "random"}).verdict
    assert "the fixed filter" in view_of(facts | {"selector": "filter"}).verdict
    facts["counts"]["kept"] = 2448
    refill = facts | {"method": "refill", "selector": None, "selection": None}
    assert view_of(refill).verdict.endswith("of 3,000 texts that were made, 2,448 passed the filters.")


def test_texts_that_cannot_matter_are_said_to_be_none(facts: dict[str, Any]) -> None:
    """Weight 0 and an empty selection are plain distillation, however many texts were made."""
    facts["knobs"]["weight"] = 0.0
    assert view_of(facts).verdict.endswith("(weight 0), so it was trained as without them.")
    facts["counts"]["kept"] = 0
    assert view_of(facts).verdict.startswith("Nothing was added: of 3,000 texts that were made, 2,448 passed")


def test_how_the_texts_were_made_follows_the_knobs(facts: dict[str, Any]) -> None:
    """A refill of the target alone must not read as one across domains."""
    assert view_of(facts).made == (
        "50% of them start from texts of the source, the others from texts of the target. In each of 1 to 3 rounds "
        "30% of the tokens are masked and refilled from the 20 likeliest of a masked language model (adapted to the "
        "training texts). The soft label is the teacher's."
    )
    knobs, only_target = facts["knobs"], "They start from texts of the target. In"
    assert view_of(facts | {"knobs": knobs | {"start": "target"}}).made.startswith(only_target)
    assert "In one round 40% of" in view_of(facts | {"knobs": knobs | {"rounds": 1, "rate": 0.4}}).made
    assert "likeliest of a masked language model (bert)" in view_of(facts | {"knobs": knobs | {"mlm": "bert"}}).made
    for name in ("rounds", "rate"):
        assert "No word is changed" in view_of(facts | {"knobs": knobs | {name: 0}}).made
    facts["counts"]["source_rows"] = 0
    assert view_of(facts).made.startswith(only_target)


def test_texts_of_the_source_are_named_with_their_labels(facts: dict[str, Any]) -> None:
    """Gold labels of another domain and the teacher's answers are different arms."""
    knobs = {"weight": 1.0, "labels": "teacher", "nearest": 0.5}
    source = facts | {"method": "source", "selector": None, "credit": None, "knobs": knobs, "selection": None}
    view = view_of(source | {"edits": None})
    assert "of 3,000 texts of the source, 2,448 passed" in view.verdict
    assert view.made == (
        "They are texts of the source as they are, the nearest 50% to the target's, with the teacher's targets."
    )
    assert view.selection is None
    assert len(view.histograms) == 1
    gold = view_of(source | {"knobs": {"labels": "gold", "nearest": 1.0}}).made
    assert gold == "They are texts of the source as they are, with its own labels."


def test_classes_stand_with_their_share_of_each_group(facts: dict[str, Any]) -> None:
    """Candidates in the column of kept texts would hide that the selector empties a class."""
    facts["classes"][0] |= {"kept": 130}
    facts["classes"][1] |= {"kept": 520}
    view = view_of(facts)
    assert view.classes is not None
    assert view.classes.columns == ("class", "the target's rows", "candidates", "kept")
    assert view.classes.rows[0] == ("negative", "100 (50%)", "1,148 (47%)", "130 (20%)")
    assert view.balance == (
        "Of the target's rows 50.0% are negative, of the kept texts 20.0%; no class differs by more."
    )


def test_the_class_that_moved_most_is_named(facts: dict[str, Any]) -> None:
    """Of many classes the reader needs the worst, and folds the others away."""
    kept = [50 + 40 * (number == 7) for number in range(13)]
    facts["classes"] = [{"label": f"c{n}", "target": 10, "candidates": 100, "kept": k} for n, k in enumerate(kept)]
    view = view_of(facts)
    assert "are c7, of the kept texts 13.0%" in view.balance
    assert view.has_many_classes
    facts["classes"].pop()
    assert not view_of(facts).has_many_classes


def test_a_regression_has_one_row_and_no_balance(facts: dict[str, Any]) -> None:
    """There is nothing to balance, and an empty name would be an empty cell."""
    facts["classes"] = [{"label": "", "target": 200, "candidates": 2448, "kept": 1224}]
    view = view_of(facts)
    assert view.classes is not None
    assert view.classes.rows == (("all", "200 (100%)", "2,448 (100%)", "1,224 (100%)"),)
    assert view.balance == ""


def test_kept_texts_stand_in_front_of_all_candidates(facts: dict[str, Any]) -> None:
    """Drawn the other way round the candidates cover what was kept; a shifted bin tells another story."""
    (domain, bins), (edits, _) = view_of(facts).histograms
    candidates, kept = domain["data"]
    assert (candidates["name"], kept["name"]) == ("candidates", "kept")
    assert candidates["y"] == facts["domain"]["candidates"]
    assert kept["y"] == facts["domain"]["kept"]
    assert kept["x"] == pytest.approx([0.05 + place / 10 for place in range(10)])
    assert kept["width"] == pytest.approx([0.092] * 10)
    assert domain["layout"]["barmode"] == "overlay"
    assert bins.rows[1] == ("0.1 – 0.2", "300", "60", "20.0%")
    assert edits["data"][1]["y"] == facts["edits"]["kept"]
    assert "domain" in domain["layout"]["title"]["text"]
    assert "changed words" in edits["layout"]["title"]["text"]


def test_examples_stand_under_what_became_of_them(report: dict[str, Any], facts: dict[str, Any]) -> None:
    """A dropped text among the kept ones makes the selector look blind."""
    html = section(report, facts)
    assert "the <mark>mixer</mark> was <mark>loud,</mark> I never finished it" in html
    assert "made from: The <del>book</del> was <del>dull,</del> I never finished it" in html
    assert html.index("Kept, for example") < html.index("score 0.80") < html.index("Dropped, for example")
    assert html.index("Dropped, for example") < html.index("score 0.10")
    assert html.count("no word was changed") == 1


def test_pairs_are_shown_side_by_side(report: dict[str, Any], facts: dict[str, Any], example: Example) -> None:
    """One side is changed per text: the other must stand beside it, unmarked."""
    facts["examples"] = {"kept": [example(start=["a man", "he runs"], text=["a man", "he swims"])], "dropped": []}
    html = section(report, facts)
    assert "a man ⟷ he <mark>swims</mark>" in html
    assert "Dropped, for example" not in html


def test_texts_of_users_stay_texts(report: dict[str, Any], facts: dict[str, Any], example: Example) -> None:
    """A review with markup would run as a script in the report of whoever opens it."""
    facts["examples"]["kept"] = [example(text=[f"{EVIL} is"], start=[f"{EVIL} was"], label=EVIL)]
    facts["examples"]["dropped"] = [example(text=[f"{EVIL} new it"], start=["all of it"])]
    facts["classes"][0] |= {"label": EVIL, "kept": 10}
    facts["knobs"]["mlm"] = EVIL
    html = section(report, facts)
    assert html.count(SHOWN) == 7
    assert f"<mark>{SHOWN}</mark>" in html
    assert "<script" not in html
    assert "<script>alert" not in render({**report, "augmentation": {"sentiment": facts}})


def test_the_time_adds_up(facts: dict[str, Any]) -> None:
    """The first question to a selector is what it costs beside a plain refill."""
    table = view_of(facts).times
    assert table is not None
    assert table.rows[1] == ("making the texts", "5 min 0 s", "50.0%")
    assert table.rows[-1] == ("together", "10 min 0 s", "")
    assert view_of(facts | {"seconds": {}}).times is None


def test_several_tasks_have_parts_of_their_own(report: dict[str, Any], facts: dict[str, Any]) -> None:
    """Figures of one task under another's name."""
    other = copy.deepcopy(facts)
    other["counts"]["kept"] = 77
    both = {"sentiment": facts, "topic": other}
    html = render({**report, "augmentation": both})
    assert [view.task for view in augmentation_views({"augmentation": both})] == ["sentiment", "topic"]
    assert html.index("<h3>sentiment</h3>") < html.index("read 1,224 texts") < html.index("<h3>topic</h3>")
    assert html.index("<h3>topic</h3>") < html.index("read 77 texts")
    assert "<h3>sentiment</h3>" not in section(report, facts)


@pytest.mark.parametrize("missing", ["absent", "null"])
def test_any_gap_leaves_a_page(report: dict[str, Any], facts: dict[str, Any], missing: str) -> None:
    """A run that was resumed, or a method with less to tell, still owes its user a page."""
    selection = facts["selection"]
    selection["curve"], selection["correlation"]["pairs"] = selection["curve"][:2], [[0.1, 0.2]] * 3
    found = list(gaps(facts))
    assert len(found) > 70
    for node, key in found:
        kept = node.pop(key)
        if missing == "null":
            node[key] = None
        assert 'id="augmentation"' in render({**report, "augmentation": {"sentiment": facts}}), key
        node[key] = kept


def gaps(node: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every key of every mapping."""
    for item in node if isinstance(node, list) else []:
        yield from gaps(item)
    for key, value in list(node.items()) if isinstance(node, dict) else []:
        yield node, key
        yield from gaps(value)


@pytest.mark.parametrize("width", [400, 1280])
def test_the_section_is_drawn_and_fits(
    chromium: Browser, report: dict[str, Any], facts: dict[str, Any], example: Example, tmp_path: Path, width: int
) -> None:
    """A plot that plotly refuses, or a text wider than a phone, shows in a browser only."""
    facts["examples"]["kept"].append(example(text=["unbroken" * 60], start=["broken" * 60], label="label" * 60))
    facts["classes"][0]["label"] = "class" * 60
    facts["knobs"]["mlm"] = "model" * 60
    write_page({**report, "augmentation": {"sentiment": facts}}, tmp_path / "report.html")
    tab = chromium.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto((tmp_path / "report.html").as_uri())
    found = tab.locator("#augmentation")
    assert found.locator(".plot .main-svg .cartesianlayer").count() == 5
    assert found.locator(".scatterlayer .points path.point").count() == 2 * 400 + 20
    assert found.locator(".scatterlayer .lines path.js-line").count() == 2
    assert found.locator(".barlayer .point").count() == 2 * 10 + 2 * 5
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()
    assert complaints == []


def test_without_javascript_the_tables_stand(
    chromium: Browser, report: dict[str, Any], facts: dict[str, Any], tmp_path: Path
) -> None:
    """A reader whose mail program runs no script must find every figure all the same."""
    write_page({**report, "augmentation": {"sentiment": facts}}, tmp_path / "report.html")
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((tmp_path / "report.html").as_uri())
    found = tab.locator("#augmentation")
    assert found.get_by_role("cell", name="2,448", exact=True).first.is_visible()
    found.get_by_text("The episodes as figures").click()
    assert found.get_by_role("cell", name="361 – 400").is_visible()
    context.close()
