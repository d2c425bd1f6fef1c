"""Chains start where they should, run their rounds, and come out the same after any interruption."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from compressor.distillation.augmentation import chains
from compressor.distillation.augmentation.candidates import Candidates, load_candidates
from compressor.distillation.augmentation.chains import Starts, draw_starts, edit_ratio, generate
from compressor.distillation.augmentation.refill import Refiller

Toys = Callable[[str], tuple[Any, PreTrainedTokenizerFast]]
pytestmark = pytest.mark.usefixtures("global_random_state_stays")
TARGET = [(f"the card is late {'now ' * (row % 5)}number {row}",) for row in range(7)]
SOURCE = [(f"my order of {row} never {'really ' * (row % 4)}arrived",) for row in range(9)]
PAIRS = [(f"the card is late {row}", f"where is the money {row}") for row in range(12)]


class Stamper:
    """Stands for a refiller: appends a number of the row's generator to the first word of the row's side."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.killed_at = -1

    def round(
        self, texts: Sequence[tuple[str, ...]], sides: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> list[tuple[str, ...]]:
        """Stamp every row once; the call of that number is the process's last."""
        self.rows.append(len(texts))
        if len(self.rows) == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        new = [list(text) for text in texts]
        for row, side, generator in zip(new, sides.tolist(), generators, strict=True):
            row[side] = f"+{generator.integers(10**9)}{row[side]}"
        return [tuple(row) for row in new]


def starts_of(**changes: Any) -> Starts:
    settings = {"per_row": 6, "source_share": 0.5, "rounds": 3, "seed": 0} | changes
    return draw_starts(len(TARGET), np.linspace(0.1, 0.9, len(SOURCE)), **settings)


def run(folder: Path, starts: Starts, refiller: object, texts: Any = TARGET, source: Any = SOURCE) -> Candidates:
    return generate(starts, texts, source, cast(Refiller, refiller), folder=folder)


def chunk_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "chunks").iterdir())}


def test_target_rows_start_equally_many_chains() -> None:
    """Catches rows drawn with replacement: a few labelled texts would make most candidates."""
    starts = starts_of(source_share=0.0)
    assert np.bincount(starts.rows, minlength=7).tolist() == [6] * 7
    half = starts_of()
    counts = np.bincount(half.rows[~half.is_source], minlength=7)
    assert counts.sum() == 21
    assert counts.tolist() == [3] * 7
    some = starts_of(source_share=0.25)
    counts = np.bincount(some.rows[~some.is_source], minlength=7)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.5, 21), (0.25, 10), (1.0, 42)])
def test_the_share_of_chains_from_the_source_is_kept(share: float, expected: int) -> None:
    """Catches candidates that all come from one of the two domains."""
    starts = starts_of(source_share=share)
    assert len(starts) == 42
    assert int(starts.is_source.sum()) == expected


@pytest.mark.parametrize("scores", [None, np.zeros(0)])
def test_without_a_source_all_chains_start_from_the_target(scores: np.ndarray | None) -> None:
    """Catches a task without a source that gets half of its candidates, or an error."""
    starts = draw_starts(5, scores, per_row=4, source_share=0.5, rounds=2, seed=0)
    assert not starts.is_source.any()
    assert np.bincount(starts.rows).tolist() == [4] * 5


def test_source_rows_come_once_before_any_comes_twice() -> None:
    """Catches a handful of source texts that fill the candidates while others are never read."""
    scores = np.array([0.0, 1e-12, *np.linspace(0.1, 0.9, 38)])
    few = draw_starts(10, scores, per_row=5, source_share=0.5, rounds=1, seed=0)
    assert len(np.unique(few.rows[few.is_source])) == 25
    many = draw_starts(10, scores, per_row=10, source_share=1.0, rounds=1, seed=0)
    counts = np.bincount(many.rows, minlength=40)
    assert (counts.min(), counts.max()) == (2, 3)


def test_source_rows_are_drawn_in_proportion_to_their_scores() -> None:
    """Catches source texts drawn blindly: those far from the target teach another domain."""
    scores = np.array([0.1, 0.3, 0.6])
    first = [draw_starts(1, scores, per_row=1, source_share=1.0, rounds=1, seed=seed).rows[0] for seed in range(1500)]
    np.testing.assert_allclose(np.bincount(first) / 1500, scores, atol=0.04)


def test_chains_have_one_to_the_given_number_of_rounds() -> None:
    """Catches a range that leaves out its last value, or gives chains that change nothing."""
    starts = draw_starts(300, None, per_row=1, source_share=0.0, rounds=3, seed=0)
    assert np.bincount(starts.rounds).tolist()[0] == 0
    np.testing.assert_allclose(np.bincount(starts.rounds, minlength=4)[1:] / 300, 1 / 3, atol=0.08)
    assert not starts_of(rounds=0).rounds.any()


def test_starts_follow_the_seed() -> None:
    """Catches a draw that cannot be repeated."""
    one, same, other = starts_of(seed=1), starts_of(seed=1), starts_of(seed=2)
    assert (one.rows == same.rows).all()
    assert (one.rounds == same.rounds).all()
    assert (one.rows != other.rows).any()
    assert (one.rounds != other.rounds).any()


def test_without_rounds_or_rate_the_candidates_are_the_starts(toy_masked_lm: Toys, tmp_path: Path) -> None:
    """Catches a control (m = 0 or rho = 0) in which texts are changed."""
    idle = Refiller(*toy_masked_lm("wordpiece"), rate=0.0, top_k=5, max_length=64)
    busy = Refiller(*toy_masked_lm("wordpiece"), rate=1.0, top_k=5, max_length=64)
    for name, starts, refiller in (("rho", starts_of(), idle), ("m", starts_of(rounds=0), busy)):
        candidates = run(tmp_path / name, starts, refiller)
        assert candidates.texts == candidates.starts == starts.texts(TARGET, SOURCE)
        assert not candidates.edit_ratios.any()
        assert (candidates.start_rows == starts.rows).all()
        assert (candidates.is_source == starts.is_source).all()


def test_a_chain_has_its_number_of_rounds_from_its_own_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches candidates mixed up by sorting, a round too many, and rounds that draw the same again."""
    monkeypatch.setattr(chains, "CHUNK_SIZE", 4)
    starts = starts_of()
    candidates = run(tmp_path, starts, Stamper())
    stamps: list[str] = []
    for (text,), start, rounds in zip(candidates.texts, starts.texts(TARGET, SOURCE), starts.rounds, strict=True):
        assert text.count("+") == rounds
        assert text.endswith(start[0])
        stamps += text.removesuffix(start[0]).split("+")[1:]
    assert candidates.starts == starts.texts(TARGET, SOURCE)
    assert (candidates.rounds == starts.rounds).all()
    assert len(set(stamps)) == len(stamps) == starts.rounds.sum()
    assert np.isnan(candidates.domain_scores).all()
    assert candidates.domain_scores.dtype == candidates.edit_ratios.dtype == np.float32
    assert candidates.logits is None


def test_one_side_of_a_pair_changes_in_all_rounds_of_a_chain(tmp_path: Path) -> None:
    """Catches chains that change both texts of a pair, and those that always change the first."""
    starts = draw_starts(len(PAIRS), None, per_row=4, source_share=0.0, rounds=3, seed=0)
    candidates = run(tmp_path, starts, Stamper(), PAIRS, [])
    changed = [
        tuple(old != new for old, new in zip(*pair, strict=True))
        for pair in zip(candidates.starts, candidates.texts, strict=True)
    ]
    assert set(changed) == {(True, False), (False, True)}
    assert 10 < changed.count((True, False)) < 38


def test_chunks_do_not_change_the_candidates(
    toy_masked_lm: Toys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a chain whose refills depend on its neighbours."""
    refiller = Refiller(*toy_masked_lm("wordpiece"), rate=0.4, top_k=20, max_length=64)
    whole = run(tmp_path / "whole", starts_of(), refiller)
    monkeypatch.setattr(chains, "CHUNK_SIZE", 4)
    parts = run(tmp_path / "parts", starts_of(), refiller)
    assert parts.texts == whole.texts
    assert parts.texts != parts.starts
    assert (parts.edit_ratios == whole.edit_ratios).all()
    expected = [edit_ratio(*pair) for pair in zip(whole.starts, whole.texts, strict=True)]
    np.testing.assert_allclose(whole.edit_ratios, expected, rtol=1e-6)


def test_a_killed_generation_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches half a chunk that is taken for a whole one, work done twice, and other texts after a resume."""
    monkeypatch.setattr(chains, "CHUNK_SIZE", 8)
    starts = starts_of(rounds=1)
    expected = run(tmp_path / "whole", starts, Stamper())
    child = os.fork()
    if child == 0:
        deadly = Stamper()
        deadly.killed_at = 4
        run(tmp_path / "killed", starts, deadly)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(chunk_bytes(tmp_path / "killed")) == 3
    (tmp_path / "killed" / "chunks" / "0003.tmp").write_bytes(b"half a chunk")
    resumed = Stamper()
    found = run(tmp_path / "killed", starts, resumed)
    assert len(resumed.rows) == 3
    assert found.texts == expected.texts
    assert chunk_bytes(tmp_path / "killed") == chunk_bytes(tmp_path / "whole")
    again = Stamper()
    assert run(tmp_path / "killed", starts, again).texts == expected.texts
    assert again.rows == []


def test_chunks_hold_texts_of_like_length_and_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches batches full of padding, and a bar that ends before or beyond its end."""
    monkeypatch.setattr(chains, "CHUNK_SIZE", 10)
    told: list[int] = []
    starts = starts_of(rounds=0)
    generate(starts, TARGET, SOURCE, cast(Refiller, Stamper()), folder=tmp_path, advance=told.append)
    assert told == [10, 20, 30, 40, 42]
    lengths = [
        [len(text) for (text,) in load_candidates(path).texts] for path in sorted((tmp_path / "chunks").iterdir())
    ]
    assert all(max(one) <= min(other) for one, other in itertools.pairwise(lengths))


def test_no_chains_give_no_candidates(tmp_path: Path) -> None:
    """Catches an error where there is nothing to start from."""
    starts = draw_starts(0, None, per_row=3, source_share=0.5, rounds=2, seed=0)
    assert len(run(tmp_path, starts, Stamper(), [], [])) == 0


@pytest.mark.parametrize(
    ("start", "text", "expected"),
    [
        (("a b c d",), ("a b c d",), 0.0),
        (("a b c d",), ("a x c d",), 0.25),
        (("The Card",), ("the CARD",), 0.0),
        (("card, late",), ("card. late",), 0.5),
        (("a b", "c d"), ("a b", "x y"), 0.5),
        (("",), ("",), 0.0),
    ],
)
def test_the_edit_ratio_is_the_share_of_changed_words(
    start: tuple[str, ...], text: tuple[str, ...], expected: float
) -> None:
    """Catches a ratio of characters, of one side of a pair alone, or one that counts capitals."""
    assert edit_ratio(start, text) == expected


def test_texts_of_different_numbers_of_words_are_an_error() -> None:
    """Catches a refiller that glues words: every word behind would silently count as changed."""
    with pytest.raises(ValueError, match="words"):
        edit_ratio(("a b",), ("ab",))
