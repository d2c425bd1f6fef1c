"""Chains of mask and refill, from texts of the target and of its source to candidate texts.

Source: Feng et al. (2021), arXiv:2101.08106 (L2A), in our reading: a chain starts from a target text, or from a source
text that a domain classifier finds close, and has one to a few rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressor.distillation.augmentation.candidates import Candidates, joined, load_candidates, save_candidates
from compressor.distillation.augmentation.refill import Refiller

CHUNKS = "chunks"
CHUNK_SIZE = 256
_STARTS, _SIDES, _ROUNDS = range(3)  # first word of a generator's seed: no two draws share a stream
_LEAST_SCORE = 1e-9


@dataclass(frozen=True)
class Starts:
    """Where chains start and how long they are; arrays are aligned.

    Attributes:
        is_source: whether a chain starts from a source text, bool [chains].
        rows: its row in the train or source split, int64 [chains].
        rounds: of mask and refill, int64 [chains].
        seed: of all that is drawn in the chains.
    """

    is_source: np.ndarray
    rows: np.ndarray
    rounds: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def texts(
        self, target_texts: Sequence[tuple[str, ...]], source_texts: Sequence[tuple[str, ...]]
    ) -> list[tuple[str, ...]]:
        """The text that each chain starts from."""
        return [
            (source_texts if is_source else target_texts)[row]
            for is_source, row in zip(self.is_source.tolist(), self.rows.tolist(), strict=True)
        ]


def draw_starts(
    num_target: int,
    source_scores: np.ndarray | None,
    *,
    per_row: int,
    source_share: float,
    rounds: int,
    seed: int,
) -> Starts:
    """Draw the starts of `per_row` chains per target row, those from the target first.

    Target rows come equally often, give or take one. Source rows are drawn with probabilities in proportion to their
    scores and without replacement; where there are more chains than source rows, every row comes equally often and
    the scores choose those that come once more.

    Args:
        num_target: labelled target rows.
        source_scores: how likely each source row is the target's, [source rows] in [0, 1]; None or empty without
            a source.
        per_row: chains per target row.
        source_share: share of the chains that start from a source row, in [0, 1].
        rounds: a chain has 1 to this many, all equally likely; 0: none.
        seed: of the starts and the chains, at least 0.
    """
    generator = np.random.default_rng((_STARTS, seed))
    scores = np.zeros(0) if source_scores is None else np.asarray(source_scores, dtype=np.float64)
    total = num_target * per_row
    num_source = round(source_share * total) if len(scores) else 0
    target_rows = _evenly(generator.permutation(num_target), total - num_source)
    source_rows = _evenly(_likely_first(scores, generator), num_source)
    return Starts(
        is_source=np.arange(total) >= total - num_source,
        rows=np.concatenate([target_rows, source_rows]).astype(np.int64),
        rounds=generator.integers(min(rounds, 1), rounds + 1, size=total),
        seed=seed,
    )


def kept_starts(path: Path, draw: Callable[[], Starts]) -> Starts:
    """Starts as an interrupted call left them, else drawn and left there: chunks belong to one drawing.

    Args:
        path: ends in .npz.
        draw: called where nothing was left.
    """
    if not path.is_file():
        drawn = draw()
        aside = path.with_suffix(".tmp.npz")
        np.savez(aside, is_source=drawn.is_source, rows=drawn.rows, rounds=drawn.rounds, seed=drawn.seed)
        aside.replace(path)
    with np.load(path) as found:
        return Starts(found["is_source"], found["rows"], found["rounds"], int(found["seed"]))


def _evenly(rows: np.ndarray, number: int) -> np.ndarray:
    """So many rows, over and over in the same order."""
    return np.resize(rows, number) if number else np.zeros(0, dtype=np.int64)


def _likely_first(scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """All rows as drawn one after the other without replacement, in proportion to their scores.

    Ordering by log(score) plus Gumbel noise does just that (Efraimidis and Spirakis 2006, in other words).
    """
    return np.argsort(-np.log(np.maximum(scores, _LEAST_SCORE)) - generator.gumbel(size=len(scores)), kind="stable")


def generate(
    starts: Starts,
    target_texts: Sequence[tuple[str, ...]],
    source_texts: Sequence[tuple[str, ...]],
    refiller: Refiller,
    *,
    folder: Path,
    advance: Callable[[int], None] = lambda _done: None,
) -> Candidates:
    """Run all chains; what an earlier, interrupted call finished is read from the folder.

    A chain's randomness is its own, and chunks are the same in every call, so a resumed call gives what an
    uninterrupted one would have given.

    Args:
        starts: of the chains.
        target_texts: the train split's; texts, or pairs.
        source_texts: the source's; may be empty where no chain starts there.
        refiller: does one round.
        folder: of this call's starts, texts and refiller alone; gets `chunks/0000.parquet` and so on.
        advance: told the number of finished chains.

    Returns:
        One candidate per chain in the order of the chains, with no logits and NaN as domain scores.
    """
    texts = starts.texts(target_texts, source_texts)
    if not texts:
        return _chunk(starts, texts, np.arange(0), refiller)
    (folder / CHUNKS).mkdir(parents=True, exist_ok=True)
    order = np.argsort([sum(map(len, text)) for text in texts], kind="stable")
    parts: list[Candidates] = []
    for number, chains in enumerate(np.split(order, range(CHUNK_SIZE, len(order), CHUNK_SIZE))):
        path = folder / CHUNKS / f"{number:04d}.parquet"
        if not path.is_file():
            save_candidates(path, _chunk(starts, texts, chains, refiller), num_sides=len(texts[0]))
        parts.append(load_candidates(path))
        advance(number * CHUNK_SIZE + len(chains))
    return joined(parts).select(np.argsort(order))


def _chunk(starts: Starts, texts: Sequence[tuple[str, ...]], chains: np.ndarray, refiller: Refiller) -> Candidates:
    before = [texts[chain] for chain in chains.tolist()]
    after = _run(starts, before, chains, refiller)
    return Candidates(
        texts=after,
        starts=before,
        is_source=starts.is_source[chains],
        start_rows=starts.rows[chains],
        rounds=starts.rounds[chains],
        edit_ratios=np.array([edit_ratio(*pair) for pair in zip(before, after, strict=True)], dtype=np.float32),
        domain_scores=np.full(len(chains), np.nan, dtype=np.float32),
    )


def _run(
    starts: Starts, before: Sequence[tuple[str, ...]], chains: np.ndarray, refiller: Refiller
) -> list[tuple[str, ...]]:
    """The chains' last texts; each chain changes one side only, and stops after its own number of rounds."""
    current = list(before)
    sides = np.array([_side(starts.seed, chain, len(before[0])) for chain in chains.tolist()], dtype=np.int64)
    for number in range(1, int(starts.rounds[chains].max(initial=0)) + 1):
        going = np.flatnonzero(starts.rounds[chains] >= number)
        generators = [np.random.default_rng((_ROUNDS, starts.seed, chain, number)) for chain in chains[going].tolist()]
        refilled = refiller.round([current[place] for place in going.tolist()], sides[going], generators)
        for place, text in zip(going.tolist(), refilled, strict=True):
            current[place] = text
    return current


def _side(seed: int, chain: int, num_sides: int) -> int:
    return int(np.random.default_rng((_SIDES, seed, chain)).integers(num_sides))


def edit_ratio(start: tuple[str, ...], text: tuple[str, ...]) -> float:
    """Share of the words of a text, or of both texts of a pair, that differ from the start's but for case.

    Words are what white space separates; a refill keeps their number.

    Raises:
        ValueError: the two have different numbers of words.
    """
    old, new = ([word for side in row for word in side.casefold().split()] for row in (start, text))
    if len(old) != len(new):
        raise ValueError(f"{start} has {len(old)} words, but its refilled text {text} has {len(new)}")
    return sum(one != other for one, other in zip(old, new, strict=True)) / max(1, len(old))
