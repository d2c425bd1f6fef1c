"""The policy, its start and its gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.selector.credit_alignment import Alignment, alignment_loss
from compressor.distillation.augmentation.selector.credit_reinforce import reinforce_loss
from compressor.distillation.augmentation.selector.policy import (
    Policy,
    PolicyLearner,
    entropies,
    log_likelihood,
    sample,
)
from compressor.distillation.augmentation.selector.state import CandidateFacts, State, candidate_states
from compressor.distillation.augmentation.selector.view import View
from compressor.distillation.targets.term import LossTerm


@pytest.fixture
def state(make_view: Callable[..., View], make_facts: Callable[..., CandidateFacts], kd: tuple[LossTerm, ...]) -> State:
    (found,) = candidate_states([make_view()], make_facts(), kd)
    return found


def moved_policy(num_features: int, seed: int = 0) -> Policy:
    """A policy that is no longer at its start, so that every parameter has a gradient."""
    policy = Policy(num_features, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return policy


def gradients(policy: nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, list(policy.parameters()))])


def test_the_policy_starts_as_the_fixed_filter(state: State) -> None:
    """Catches a policy whose first choices are those of random weights, or the filter upside down."""
    learner = PolicyLearner([state], L2aKnobs(), seed=0)
    torch.testing.assert_close(learner.scores(0), state.standard_filter.sigmoid())
    assert torch.equal(learner.scores(0).argsort(), state.filter_scores.argsort())
    assert float(state.filter_scores.std()) > 0.1


def test_the_policy_can_start_without_an_order(state: State) -> None:
    """Catches a prior that the knob does not take away: the filter's order would be in every choice."""
    learner = PolicyLearner([state], L2aKnobs(prior="even"), seed=0)
    assert learner.scores(0).tolist() == [0.5] * len(state.filter_scores)
    learner.descend(learner.log_odds(0, torch.tensor([0]))[0])
    assert float(learner.policy.scale.detach()) != 0.0


def test_a_new_policy_differs_by_its_seed_alone_and_draws_nothing_global(
    random_states: Callable[[], list[bytes]],
) -> None:
    """Catches two selectors in a process that differ, and one that moves the student's own random numbers."""
    before = random_states()
    first, again, other = Policy(5, seed=1), Policy(5, seed=1), Policy(5, seed=2)
    assert random_states() == before
    weights = [next(policy.layers.parameters()).detach() for policy in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert float(weights[0].std()) > 0.05


def test_the_policy_has_two_hidden_layers_of_64() -> None:
    """Catches a policy of another size than the docs say."""
    shapes = [tuple(parameter.shape) for parameter in Policy(5, seed=0).layers.parameters()]
    assert shapes == [(64, 5), (64,), (64, 64), (64,), (1, 64), (1,)]


@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
def test_reinforce_equals_the_enumerated_gradient_on_two_candidates(state: State, entropy_weight: float) -> None:
    """Catches a wrong sign, a mean in place of the sum, and an entropy that is subtracted."""
    policy, rows = moved_policy(state.features.shape[1]), torch.tensor([4, 11])
    rewards = {(False, False): 0.0, (True, False): 1.3, (False, True): -0.4, (True, True): 0.2}

    def odds() -> Tensor:
        found: Tensor = policy(state.features[rows], state.standard_filter[rows])
        return found

    def probability(kept: tuple[bool, ...]) -> Tensor:
        likely = odds().sigmoid()
        return torch.stack([p if keep else 1.0 - p for p, keep in zip(likely, kept, strict=True)]).prod()

    choices = list(itertools.product([False, True], repeat=2))
    expected = torch.stack([probability(kept) * rewards[kept[0], kept[1]] for kept in choices]).sum()
    uncertainty = -torch.stack([probability(kept) * probability(kept).log() for kept in choices]).sum()
    wanted = -gradients(policy, expected + entropy_weight * uncertainty)
    found = torch.zeros_like(wanted)
    for kept in choices:
        loss = reinforce_loss(
            odds(), torch.tensor(kept), reward=rewards[kept[0], kept[1]], entropy_weight=entropy_weight
        )
        found += float(probability(kept).detach()) * gradients(policy, loss)
    assert float(wanted.norm()) > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_constant_reward_without_entropy_leaves_the_policy_in_place_on_average(state: State) -> None:
    """Catches decisions that are not drawn with the policy's own probabilities, which would drift without a reason."""
    policy, generator = moved_policy(state.features.shape[1]), torch.Generator().manual_seed(7)
    draws = []
    for _ in range(1000):
        odds = policy(state.features[:8], state.standard_filter[:8])
        kept = sample(odds.detach().sigmoid(), generator)
        loss = reinforce_loss(odds, kept, reward=1.0, entropy_weight=0.0)
        slopes = torch.autograd.grad(loss, [policy.scale, policy.bias, odds])
        draws.append(torch.cat([slope.flatten() for slope in slopes]))
    found = torch.stack(draws)
    errors = found.std(dim=0) / math.sqrt(len(found))
    assert float(errors.min()) > 0.0
    assert bool((found.mean(dim=0).abs() <= 3.0 * errors).all())


def test_a_sample_keeps_each_row_with_its_own_probability() -> None:
    """Catches rows that are kept together, and the certain ones that are not."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    kept = torch.stack([sample(probabilities, generator) for _ in range(4000)]).float()
    torch.testing.assert_close(kept.mean(dim=0), probabilities, rtol=0, atol=0.03)
    assert abs(float(np.corrcoef(kept[:, 1], kept[:, 2])[0, 1])) < 0.05


def test_likelihood_and_entropy_are_those_of_single_decisions() -> None:
    """Catches logarithms of another base, and entropies that overflow where the policy is sure."""
    odds = torch.tensor([0.0, math.log(3.0), 80.0, -80.0])
    kept = torch.tensor([True, False, True, False])
    assert float(log_likelihood(odds, kept)) == pytest.approx(math.log(0.5) + math.log(0.25))
    wanted = [math.log(2.0), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), 0.0, 0.0]
    assert entropies(odds).tolist() == pytest.approx(wanted, abs=1e-6)


def test_alignment_moves_each_candidate_by_its_own_credit() -> None:
    """Catches a credit of the wrong sign, and one that is shared."""
    odds = torch.zeros(3, requires_grad=True)
    loss = alignment_loss(odds, torch.tensor([2.0, -1.0, 0.0]), entropy_weight=0.0)
    (slopes,) = torch.autograd.grad(loss, odds)
    assert slopes.tolist() == pytest.approx([-0.5, 0.25, 0.0])
    sure = torch.full((3,), 2.0, requires_grad=True)
    (slopes,) = torch.autograd.grad(alignment_loss(sure, torch.zeros(3), entropy_weight=1.0), sure)
    assert float(slopes.min()) > 0.05


def test_credits_keep_the_sign_of_the_alignment(state: State) -> None:
    """Catches credits that are centred: then the least helpful half would be dropped however helpful it is."""
    credit = Alignment([state], L2aKnobs(), seed=0).credits[0]
    assert torch.equal(credit.sign(), state.alignment.sign())
    assert float(credit.square().mean()) == pytest.approx(1.0, abs=1e-5)
