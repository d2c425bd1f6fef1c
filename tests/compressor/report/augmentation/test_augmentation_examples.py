"""Examples of added texts: what was replaced is marked, what was not stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compressor.report.augmentation_examples import Word, examples_of, marked, shortened

Example = Callable[..., dict[str, Any]]


def test_replaced_words_are_marked_place_by_place() -> None:
    """A refill keeps the number of words: a text that is compared otherwise marks words that were never masked."""
    assert marked("The mixer WAS loud", "the book was dull") == (
        Word("The"), Word("mixer", True), Word("WAS"), Word("loud", True),
    )  # fmt: skip
    assert [word.is_changed for word in marked("a b c", "b c a")] == [True, True, True]


def test_texts_of_another_length_are_compared_by_their_common_runs() -> None:
    """Place by place, one word too many would mark all that follow it."""
    words = marked("it never really worked for me", "It never worked for me")
    assert [word.text for word in words if word.is_changed] == ["really"]
    assert [word.is_changed for word in marked("one", "")] == [True]
    assert marked("", "one") == ()


def test_common_words_of_long_texts_are_known_again() -> None:
    """The junk heuristic of difflib forgets words that are frequent in 200 or more, and marks them all."""
    text = "very good " * 150
    assert sum(word.is_changed for word in marked("indeed " + text, text)) == 1


def test_long_texts_are_cut_far_from_their_changes() -> None:
    """Sixteen whole reviews bury the words that were replaced; a cut near a change hides what it means."""
    words = [Word(f"w{place}", place == 50) for place in range(120)]
    assert [word.text for word in shortened(words)] == ["…", *(f"w{place}" for place in range(42, 59)), "…"]
    unchanged = shortened([Word(f"w{place}") for place in range(120)])
    assert [word.text for word in unchanged] == [*(f"w{place}" for place in range(40)), "…"]
    short = [Word("new", True), *words[:39]]
    assert shortened(short) == tuple(short)
    assert shortened([*short, Word("end")])[-1] == Word("…")


def test_examples_say_where_they_come_from(example: Example) -> None:
    """A target's text under the source's name turns the finding on domains round."""
    source, target = examples_of(
        [example(), example(is_source=False, start=["It works"], text=["It works"], score=None)]
    )
    assert source.facts == "from the source; the teacher says negative (0.93); score 0.80"
    assert source.is_changed
    assert target.facts == "from the target; the teacher says negative (0.93)"
    assert not target.is_changed


def test_answers_of_every_task_type_are_told(example: Example) -> None:
    """A regression has no label, several labels are a list: neither may end the page."""
    number, labels = examples_of([example(label="", confidence=None), example(label=["card", "app"])])
    assert number.facts == "from the source; score 0.80"
    assert "the teacher says card, app (0.93)" in labels.facts


def test_both_versions_are_cut_at_the_same_places(example: Example) -> None:
    """A start that shows another part of the review cannot be compared."""
    start = [f"w{place}" for place in range(100)]
    text = [*start[:60], "new", *start[61:]]
    (found,) = examples_of([example(start=[" ".join(start)], text=[" ".join(text)])])
    (old,), (new,) = found.start, found.text
    assert [word.is_changed for word in old] == [word.is_changed for word in new]
    assert [word.text for word in old if word.is_changed] == ["w60"]
    assert [word.text for word in new if word.is_changed] == ["new"]
