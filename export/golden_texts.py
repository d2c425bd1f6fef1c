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
    "ok",
    "Who wrote the novel that this opera is based on?",
    "The parcel arrived, but the box was open and one of the three cups was broken.",
    "It rained for eleven days, and on the twelfth the river stood in the cellar.",
    "I love it.",
    "I cannot say that I did not like it, but I would not see it again.",
    "My card was declined at the till although there is enough money in the account.",
    "Shares of the company fell 7.5% on Thursday after it lowered its forecast for the year.",
    "What is the distance between the Earth and the Moon in kilometres?",
    "Ein Mann spielt Gitarre auf einer Brücke.",
    "Dull, long, and far too pleased with itself.",
    "Please send the invoice to the address below and not to the one on file, which is out of date.",
    "The team won its first match since October, three to two, with two goals in the last five minutes.",
    "Can I use the same voucher twice?",
    "A woman is slicing an onion.",
    "The new law forbids the sale of such devices to anyone below the age of sixteen.",
    "works as described, would buy again",
    "Nobody answered my last four messages, and the number on your page is not in service.",
    "She opened the letter, read it twice, and put it back into the drawer where she had found it.",
    "Scientists have found traces of water in samples that were thought to be dry.",
    "Why was my account locked?",
    "The room was clean and quiet, the breakfast poor, the staff friendly, and the lift out of order all week.",
    "1 2 3 4 5 6 7 8 9 10",
    "The patient reports pain in the left knee, worse in the morning, since a fall two weeks ago.",
    "Turn left at the second traffic light and follow the road until you see the church.",
    "An hour of my life that I will never get back.",
)
_NUM_MIXED = 26
_LONGEST = 3
"""A mixed text joins two to so many sentences; one text of all of them fills the longest input."""


def golden_texts(text_columns: Sequence[str]) -> list[tuple[str, ...]]:
    """At least `serving.golden.LARGE_SET` texts, or each with the one after it where the model reads pairs.

    The first eight are the short set: questions, a single word, symbols, the longest sentence.
    """
    texts = [*SENTENCES, *_mixed(), " ".join(SENTENCES)]
    if len(text_columns) == 1:
        return [(text,) for text in texts]
    return list(zip(texts, (*texts[1:], texts[0]), strict=True))


def _mixed() -> list[str]:
    """Longer texts: sentences that do not stand beside each other, joined."""
    starts = range(_NUM_MIXED)
    return [
        " ".join(SENTENCES[(start + 11 * step) % len(SENTENCES)] for step in range(2 + start % (_LONGEST - 1)))
        for start in starts
    ]
