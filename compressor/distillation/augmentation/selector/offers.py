"""What each episode has before it: a stored student, a batch of target rows, and some candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.selector.view import View
from serving.errors import UserError

_FIRST_SHARE = 0.25  # of the candidates, by edit ratio, before the first episode


@dataclass(frozen=True)
class Offer:
    """What an episode has before it.

    Attributes:
        view: position of the stored student.
        batch: positions of its target rows, int64.
        rows: positions of the candidates it may keep, int64.
    """

    view: int
    batch: Tensor
    rows: Tensor


class Offers:
    """Draws of all episodes: each view equally often, texts that were changed little first (a curriculum)."""

    def __init__(
        self, views: Sequence[View], edit_ratios: np.ndarray, settings: L2aKnobs, *, batch_size: int, seed: int
    ) -> None:
        """Draw from a generator of its own.

        Raises:
            UserError: no view has a candidate that it may learn from.

        Args:
            views: the stored students, with the same candidates; one without a candidate has no turn.
            edit_ratios: share of changed words per candidate, [candidates]; equal ones come in random order.
            settings: number and size of the episodes.
            batch_size: target rows of an episode.
            seed: of all draws.
        """
        self._generator = np.random.default_rng(seed)
        self._settings = settings
        self._lengths = [len(view.target) for view in views]
        order = np.lexsort((self._generator.random(len(edit_ratios)), edit_ratios))
        self._orders = [order[view.may_train.numpy()[order]] for view in views]
        self._views = [view for view, own in enumerate(self._orders) if len(own)]
        if not self._views:
            raise UserError(
                "every candidate was made from a row that would judge it, so the selector has nothing to learn from. "
                "Give a source, raise per_row, or loosen the filters (min_confidence, min_margin, max_edit_ratio)."
            )
        self._batch_size = batch_size
        self._turns: list[int] = []

    def draw(self, episode: int) -> Offer:
        """The offer of an episode, counted from 1; to be asked for in order."""
        if not self._turns:
            self._turns = self._generator.permutation(self._views).tolist()
        view = self._turns.pop()
        settings, order = self._settings, self._orders[view]
        number = num_offered(episode, settings.episodes, candidates=len(order), episode_size=settings.episode_size)
        batch = self._some(np.arange(self._lengths[view]), self._batch_size)
        return Offer(view, batch, self._some(order[:number], settings.episode_size))

    def _some(self, pool: np.ndarray, number: int) -> Tensor:
        """So many of the pool, or all of it, without repetition."""
        drawn = self._generator.choice(pool, size=min(number, len(pool)), replace=False)
        return torch.from_numpy(drawn.astype(np.int64))


def num_offered(episode: int, episodes: int, *, candidates: int, episode_size: int) -> int:
    """From how many candidates, those of the lowest edit ratios, an episode draws: from a quarter on up to all.

    Args:
        episode: from 1.
        episodes: of the whole learning; the last one draws from all.
        candidates: how many there are.
        episode_size: how many the episode takes; the pool is at least as large, where there are so many.
    """
    share = _FIRST_SHARE + (1.0 - _FIRST_SHARE) * episode / episodes
    return min(candidates, max(episode_size, math.ceil(share * candidates)))
