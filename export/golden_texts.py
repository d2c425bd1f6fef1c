"""Texts that say nothing about anyone, of varied length, for golden examples: the bundle may be passed on."""

from __future__ import annotations

from collections.abc import Sequence

SENTENCES = (
    "Where is my order? It should have come on Monday.",
    "Thanks, that solved it!",
    "I was charged twice for the same month and would like one of the two payments back, please.",
    "no",
    "The film begins slowly, but its last half hour is among the best I have seen this year, and the music "
    "alone is worth the ticket even if you do not care for the actors or for the story that they tell.",
    "Please cancel my subscription at the end of the period; do not renew it, and confirm this by e-mail.",
    "HELP!!! nothing works since the update :-(",
    "Two people are playing chess in a park.",
    "Zürich, São Paulo and 東京 are cities; 3.14 is not, and neither is user@example.org.",
    "How do I change the password of an account whose address no longer exists?",
    "The committee will meet again on 12 March 2031 to decide whether the bridge is to be repaired or to be "
    "replaced, after a report found cracks in four of its nine piers.",
    "A man is eating food while nobody watches.",
)


def golden_texts(text_columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The sentences, or each with the one after it where the model reads pairs."""
    if len(text_columns) == 1:
        return [(sentence,) for sentence in SENTENCES]
    followers = (*SENTENCES[1:], SENTENCES[0])
    return list(zip(SENTENCES, followers, strict=True))
