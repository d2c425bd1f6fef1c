"""The datamodel alone, on rewards that are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import stats

from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.selector.credit import Outcome
from compressor.distillation.augmentation.selector.credit_datamodel import Datamodel
from compressor.distillation.augmentation.selector.state import CandidateFacts, State, candidate_states
from compressor.distillation.augmentation.selector.view import View
from compressor.distillation.targets.term import LossTerm


def fed(states: list[State], worth: torch.Tensor, *, sizes: tuple[float, ...]) -> Datamodel:
    """A datamodel after 200 selections, each worth the sum of its candidates' worth, in units of its view."""
    generator = torch.Generator().manual_seed(0)
    model = Datamodel(states, L2aKnobs(), seed=0)
    for episode in range(200):
        view = episode % len(states)
        rows = torch.randperm(40, generator=generator)[:16]
        kept = torch.rand(16, generator=generator) < model.probabilities(view, rows)
        model.learn(Outcome(view, rows, kept, sizes[view] * float(worth[rows[kept]].sum()), 0.0, 0.0))
    return model


def test_a_linear_worth_is_recovered(
    make_view: Callable[..., View], make_facts: Callable[..., CandidateFacts], kd: tuple[LossTerm, ...]
) -> None:
    """Catches selections that are described by what was offered, or by what was dropped."""
    (state,) = candidate_states([make_view()], make_facts(), kd)
    for sign in (1.0, -1.0):
        worth = sign * (state.features[:, 0] - 2.0 * state.features[:, -1] + 0.5)
        scores = fed([state], worth, sizes=(1.0,)).scores(0)
        assert stats.spearmanr(scores.numpy(), worth.numpy())[0] > 0.98
        assert np.mean((scores.numpy() > 0.5) == (worth.numpy() > 0.0)) > 0.9


def test_views_count_alike_whatever_the_size_of_their_rewards(
    make_view: Callable[..., View], make_facts: Callable[..., CandidateFacts], kd: tuple[LossTerm, ...]
) -> None:
    """Catches an early student whose large rewards drown what the late one says."""
    states = candidate_states([make_view(seed=0), make_view(seed=0, progress=0.8)], make_facts(), kd)
    large = fed(states, states[0].features[:, 2], sizes=(1000.0, 1.0)).scores(1)
    equal = fed(states, states[0].features[:, 2], sizes=(1.0, 1.0)).scores(1)
    torch.testing.assert_close(large, equal, rtol=0, atol=1e-4)


def test_rewards_that_never_differ_score_every_candidate_alike(
    make_view: Callable[..., View], make_facts: Callable[..., CandidateFacts], kd: tuple[LossTerm, ...]
) -> None:
    """Catches NaN where all rewards are 0."""
    (state,) = candidate_states([make_view()], make_facts(), kd)
    assert fed([state], torch.zeros(40), sizes=(1.0,)).scores(0).tolist() == [0.5] * 40
