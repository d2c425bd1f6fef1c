"""Learning the selector: episodes in, one score per candidate out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.selector.credit import Credit, Outcome
from compressor.distillation.augmentation.selector.episode import (
    HeadTraining,
    HeadTrials,
    RewardScale,
    finite,
)
from compressor.distillation.augmentation.selector.offers import Offer, Offers
from compressor.distillation.augmentation.selector.policy import sample
from compressor.distillation.augmentation.selector.registry import CREDITS
from compressor.distillation.augmentation.selector.state import FACTS, CandidateFacts, candidate_states
from compressor.distillation.augmentation.selector.view import View, last_views
from compressor.distillation.targets.term import LossTerm
from serving.errors import UserError

FullReward = Callable[[int, np.ndarray, np.ndarray], float]
"""(position of the view, target rows of the batch, kept candidates) to the reward of the whole student."""

Advance = Callable[[int, str], None]
"""Told the finished episodes and what to show beside them."""

_LEAST_PAIRS = 3


@dataclass(frozen=True)
class Learned:
    """What was learned; scores and alignment are means over the last stored student of each fold.

    Attributes:
        scores: how much a candidate is to be kept, float32 [candidates] in [0, 1].
        filter_scores: of the fixed filter, float32 [candidates].
        alignment: with the reward rows, float32 [candidates].
        curve: per episode its number from 1, reward, scaled reward, share kept, mean entropy of the decisions in nats,
            and the progress of the stored student.
        correlation: `rho`, Spearman's of cheap and full reward, None for fewer than three pairs or where one of the
            two is constant; `n`; and the `pairs` [cheap, full].
        feature_names: of what the policy reads.
    """

    scores: np.ndarray
    filter_scores: np.ndarray
    alignment: np.ndarray
    curve: list[dict[str, float]]
    correlation: dict[str, Any]
    feature_names: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Everything as numbers, lists and texts, ready for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("scores", "filter_scores", "alignment")}
        names = list(self.feature_names)
        return {**arrays, "curve": self.curve, "correlation": self.correlation, "feature_names": names}


def learn_selector(  # noqa: PLR0913 - each is a thing of its own, and there is one caller
    views: Sequence[View],
    facts: CandidateFacts,
    settings: L2aKnobs,
    terms: Sequence[LossTerm],
    *,
    gamma: float,
    batch_size: int,
    seed: int,
    full_reward: FullReward | None = None,
    advance: Advance | None = None,
) -> Learned:
    """Play the episodes and score every candidate; no global random state is touched.

    Args:
        views: stored students, of one fold or several, all with the same candidates.
        facts: what else is known of those.
        settings: knobs of the selector.
        terms: the student's supervision; none may read the student's own past.
        gamma: what an added row weighs.
        batch_size: target rows of an episode.
        seed: of every draw.
        full_reward: an episode's reward by a full update, unless it kept nothing: asked of every episode where
            `reward` is "student", else of one in `full_every`; None: never, where `reward` is "head".
        advance: told of every episode.

    Raises:
        UserError: there is no candidate, or a loss is no number.
    """
    _check(views, facts)
    draws, policy, decisions = (int(part) for part in np.random.SeedSequence(seed).generate_state(3))
    judge = _Judge(views, settings, HeadTraining(tuple(terms), gamma, settings.updates), full_reward)
    offers = Offers(views, facts.edit_ratios, settings, batch_size=batch_size, seed=draws)
    states = candidate_states(views, facts, terms, only=FACTS if settings.state == "facts" else None)
    course = _Course(judge, offers, CREDITS[settings.credit](states, settings, seed=policy), seed=decisions)
    for number in range(1, settings.episodes + 1):
        note = course.play(number)
        if advance is not None:
            advance(number, note)
    last = last_views(views)
    return Learned(
        scores=_mean([course.credit.scores(view) for view in last]),
        filter_scores=_mean([states[view].filter_scores for view in last]),
        alignment=_mean([states[view].alignment for view in last]),
        curve=course.curve,
        correlation=judge.correlation(),
        feature_names=states[0].names,
    )


def _check(views: Sequence[View], facts: CandidateFacts) -> None:
    lengths = {len(view.candidates) for view in views} | {len(facts.edit_ratios), len(facts.domain_scores)}
    if not views or len(lengths) > 1:
        raise ValueError(f"{len(views)} views and their facts hold different numbers of candidates: {sorted(lengths)}")
    if lengths == {0}:
        raise UserError(
            "there is no candidate for the selector to choose from, expected at least one; loosen the filters "
            "(min_confidence, min_margin, max_edit_ratio) or raise per_row"
        )


class _Judge:
    """What an episode is worth, by the head or by the whole student."""

    def __init__(
        self, views: Sequence[View], settings: L2aKnobs, training: HeadTraining, full_reward: FullReward | None
    ) -> None:
        self.views = views
        self.asks_student = settings.reward == "student"
        if self.asks_student and full_reward is None:
            raise ValueError("reward 'student' needs full_reward, got None")
        self._full_every = 1 if self.asks_student else settings.full_every
        self._full_reward = full_reward
        self._trials = [HeadTrials(view, training) for view in views]
        self._pairs: list[list[float]] = []
        self._pair_states: list[float] = []

    def reward(self, episode: int, offer: Offer, kept: Tensor) -> float:
        """Of the kept candidates; where head and student were both asked, the pair is remembered."""
        cheap = self._trials[offer.view].reward(offer.batch, kept)
        if self._full_reward is None or episode % self._full_every or not len(kept):
            return cheap
        full = float(self._full_reward(offer.view, offer.batch.numpy(), kept.numpy()))
        self._pairs.append([cheap, finite(full, "the reward of a full update")])
        self._pair_states.append(self.views[offer.view].progress)
        return full if self.asks_student else cheap

    def correlation(self) -> dict[str, Any]:
        """Of the pairs; see `Learned`."""
        return correlation(self._pairs, self._pair_states)


class _Course:
    """A learning between episodes."""

    def __init__(self, judge: _Judge, offers: Offers, credit: Credit, *, seed: int) -> None:
        self.judge, self.offers, self.credit = judge, offers, credit
        self.curve: list[dict[str, float]] = []
        self._progress = [view.progress for view in judge.views]
        self._scales = {progress: RewardScale() for progress in self._progress}
        self._generator = torch.Generator().manual_seed(seed)

    def play(self, number: int) -> str:
        """One episode; what to show of it."""
        offer = self.offers.draw(number)
        probabilities = self.credit.probabilities(offer.view, offer.rows)
        kept = sample(probabilities, self._generator)
        reward = self.judge.reward(number, offer, offer.rows[kept])
        scaled, advantage = self._scales[self._progress[offer.view]].scaled(reward)
        outcome = Outcome(offer.view, offer.rows, kept, reward, scaled, advantage)
        self.credit.learn(outcome)
        self.curve.append(self._point(number, outcome, probabilities))
        return f"reward {reward:+.4f} kept {self.curve[-1]['keep_rate']:.2f}"

    def _point(self, number: int, outcome: Outcome, probabilities: Tensor) -> dict[str, float]:
        entropies = torch.special.entr(probabilities) + torch.special.entr(1.0 - probabilities)
        return {
            "episode": number,
            "reward": outcome.reward,
            "reward_scaled": outcome.reward_scaled,
            "keep_rate": float(outcome.kept.float().mean()),
            "entropy": float(entropies.mean()),
            "progress": self._progress[outcome.view],
        }


def _mean(columns: Sequence[Tensor]) -> np.ndarray:
    """Row by row, float32 [rows]."""
    return np.asarray(torch.stack(list(columns)).mean(dim=0).numpy(), dtype=np.float32)


def correlation(pairs: Sequence[Sequence[float]], states: Sequence[float]) -> dict[str, Any]:
    """Spearman's rank correlation of pairs [cheap, full], with their number; see `Learned`.

    Ranks are counted within each stored state, since rewards shrink while a student learns: one state's high rewards
    beside another's low ones would look like agreement.

    Args:
        pairs: of the repeated episodes.
        states: of each pair, any number that tells the stored states apart.
    """
    columns, states = np.array(pairs, dtype=np.float64).reshape(-1, 2), list(states)
    ranks = np.zeros_like(columns)
    for state in set(states):
        rows = np.array(states) == state
        within = stats.rankdata(columns[rows], axis=0)
        ranks[rows] = within - within.mean(axis=0)
    is_defined = len(columns) >= _LEAST_PAIRS and bool((np.ptp(ranks, axis=0) > 0.0).all())
    rho = float(np.corrcoef(ranks[:, 0], ranks[:, 1])[0, 1]) if is_defined else None
    return {"rho": rho, "n": len(columns), "pairs": [list(pair) for pair in pairs]}
