"""Added texts as the page shows them: the words that were replaced are marked, long stretches between them cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

from compressor.report.wording import is_known

_CONTEXT = 8
"""Words that are shown on either side of a changed one."""
_WHOLE = 40
"""Texts of so many words are never cut."""
_CUT = "…"

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Word:
    """One word of a text.

    Attributes:
        text: as it stands there, or the sign for words that are left out.
        is_changed: whether the other version of the text has another word in its place.
    """

    text: str
    is_changed: bool = False


Sides = tuple[tuple[Word, ...], ...]


@dataclass(frozen=True)
class Example:
    """One text that was kept or dropped.

    Attributes:
        facts: where it comes from and what teacher and selector said of it.
        start: the text that it was made from, one side or two.
        text: itself.
        is_changed: whether any word differs.
    """

    facts: str
    start: Sides
    text: Sides
    is_changed: bool


def examples_of(examples: Sequence[Facts]) -> tuple[Example, ...]:
    """The examples of a report, ready to be shown."""
    return tuple(_example(facts) for facts in examples)


def marked(text: str, other: str) -> tuple[Word, ...]:
    """The words of a text, each with whether the other text has it in its place, upper case or lower.

    A refill keeps the number of words, so they are compared place by place; where the numbers differ, the longest
    common runs of words are taken for unchanged.

    Args:
        text: split at white space.
        other: what it is compared with.
    """
    words, others = text.split(), other.split()
    known, new = [word.casefold() for word in others], [word.casefold() for word in words]
    if len(new) == len(known):
        return tuple(Word(word, a != b) for word, a, b in zip(words, new, known, strict=True))
    runs = SequenceMatcher(a=known, b=new, autojunk=False).get_matching_blocks()
    same = {run.b + step for run in runs for step in range(run.size)}
    return tuple(Word(word, place not in same) for place, word in enumerate(words))


def shortened(words: Sequence[Word]) -> tuple[Word, ...]:
    """A long text with what stands far from every change left out; without a change, its beginning."""
    if len(words) <= _WHOLE:
        return tuple(words)
    changed = [place for place, word in enumerate(words) if word.is_changed]
    near = {place + step for place in changed for step in range(-_CONTEXT, _CONTEXT + 1)} or set(range(_WHOLE))
    shown: list[Word] = []
    for place, word in enumerate(words):
        if place in near:
            shown.append(word)
        elif not shown or shown[-1].text != _CUT:
            shown.append(Word(_CUT))
    return tuple(shown)


def _example(facts: Facts) -> Example:
    texts, starts = facts.get("text") or [], facts.get("start") or []
    sides = list(zip_longest(texts, starts, fillvalue=""))
    text = [marked(new, old) for new, old in sides]
    return Example(
        facts="; ".join(filter(None, (_origin(facts), _answer(facts), _score(facts)))),
        start=tuple(shortened(marked(old, new)) for new, old in sides),
        text=tuple(shortened(words) for words in text),
        is_changed=any(word.is_changed for words in text for word in words),
    )


def _origin(facts: Facts) -> str:
    return f"from the {'source' if facts.get('is_source') else 'target'}"


def _answer(facts: Facts) -> str:
    label, confidence = facts.get("label"), facts.get("confidence")
    if label is None or label == "":
        return ""
    said = ", ".join(map(str, label)) if isinstance(label, list) else str(label)
    return f"the teacher says {said}" + (f" ({confidence:.2f})" if is_known(confidence) else "")


def _score(facts: Facts) -> str:
    score = facts.get("score")
    return f"score {score:.2f}" if is_known(score) else ""
