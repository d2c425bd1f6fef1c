"""What the episodes draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.selector.offers import Offer, Offers, num_offered
from compressor.distillation.augmentation.selector.view import View
from serving.errors import UserError

SETTINGS = L2aKnobs(episodes=40, episode_size=8)
EDITS = np.random.default_rng(3).random(40)


def all_offers(views: list[View], edits: np.ndarray = EDITS, *, batch_size: int = 5, seed: int = 0) -> list[Offer]:
    offers = Offers(views, edits, SETTINGS, batch_size=batch_size, seed=seed)
    return [offers.draw(episode) for episode in range(1, SETTINGS.episodes + 1)]


def test_the_curriculum_opens_from_a_quarter_to_all() -> None:
    """Catches a curriculum that never ends, and one that offers less than an episode takes."""
    numbers = [num_offered(e, 300, candidates=1000, episode_size=64) for e in (1, 100, 200, 300)]
    assert numbers == [253, 500, 750, 1000]
    assert num_offered(1, 300, candidates=100, episode_size=64) == 64
    assert num_offered(1, 300, candidates=20, episode_size=64) == 20


def test_little_changed_texts_come_first(make_view: Callable[..., View]) -> None:
    """Catches a curriculum in the order of the rows, and one that starts with the most changed texts."""
    ranks = np.argsort(np.argsort(EDITS))
    found = all_offers([make_view()])
    for episode, offer in enumerate(found, start=1):
        assert ranks[offer.rows.numpy()].max() < np.ceil(40 * (0.25 + 0.75 * episode / 40))
    assert max(ranks[offer.rows.numpy()].max() for offer in found[-10:]) > 34


def test_texts_changed_alike_come_in_random_order(make_view: Callable[..., View]) -> None:
    """Catches a curriculum that prefers low row numbers where nothing was changed at all."""
    first = [all_offers([make_view()], np.zeros(40), seed=seed)[0].rows for seed in range(4)]
    assert max(int(rows.max()) for rows in first) > 20


def test_every_view_has_its_turn_equally_often(make_view: Callable[..., View]) -> None:
    """Catches states that are hardly trained on, and a fixed turn that full updates would always meet."""
    found = [offer.view for offer in all_offers([make_view(seed=seed) for seed in range(4)])]
    assert Counter(found) == dict.fromkeys(range(4), 10)
    assert found[:4] != found[4:8] or found[4:8] != found[8:12]


def test_batches_and_candidates_are_drawn_without_repetition(make_view: Callable[..., View]) -> None:
    """Catches rows that count twice, and a batch larger than its task that raises."""
    for offer in all_offers([make_view()]):
        assert (len(set(offer.batch.tolist())), len(set(offer.rows.tolist()))) == (5, 8)
        assert offer.batch.dtype == offer.rows.dtype == torch.int64
        assert int(offer.batch.max()) < 12
    assert sorted(all_offers([make_view()], batch_size=99)[0].batch.tolist()) == list(range(12))
    assert len({tuple(offer.batch.tolist()) for offer in all_offers([make_view()])}) > 30


def test_the_same_seed_draws_the_same(make_view: Callable[..., View]) -> None:
    """Catches draws that depend on anything but the seed."""
    first, again, other = (all_offers([make_view()], seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(a.rows, b.rows) and torch.equal(a.batch, b.batch) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.rows, b.rows) for a, b in zip(first, other, strict=True))


def test_no_view_is_offered_what_was_made_from_its_reward_rows(make_view: Callable[..., View]) -> None:
    """Catches episodes that are judged by the rows whose refills they have read, and views that share one mask."""
    judged = [torch.arange(40) % 4 == 0, torch.arange(40) % 4 == 1]
    views = [replace(make_view(seed=seed), is_judged=mask) for seed, mask in enumerate(judged)]
    offers = all_offers(views)
    for offer in offers:
        assert not judged[offer.view][offer.rows].any()
    assert {view for offer in offers for view in [offer.view] if judged[1 - view][offer.rows].any()} == {0, 1}
    nothing = replace(make_view(), is_judged=torch.ones(40, dtype=torch.bool))
    assert {offer.view for offer in all_offers([nothing, views[0]])} == {1}
    with pytest.raises(UserError, match="every candidate was made from a row that would judge it"):
        all_offers([nothing])
