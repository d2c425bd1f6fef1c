"""What an episode measures, against a second implementation by torch's own layers and optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.distillation.augmentation.selector.episode import HEAD_RATE, HeadTraining, HeadTrials, RewardScale
from compressor.distillation.augmentation.selector.view import View
from compressor.distillation.knobs import BamKnobs
from compressor.distillation.targets.bam import bam_terms
from compressor.distillation.targets.term import LossTerm
from serving.errors import UserError
from serving.manifest import TaskType

KINDS: tuple[TaskType, ...] = ("classification", "multilabel", "regression")
BATCH, KEPT = torch.tensor([3, 1, 7, 9]), torch.tensor([5, 0, 30])


def trials_of(view: View, terms: tuple[LossTerm, ...], *, gamma: float = 0.7, updates: int = 6) -> HeadTrials:
    return HeadTrials(view, HeadTraining(terms, gamma, updates))


def loss_by_hand(view: View, batch: Tensor, kept: Tensor, *, gamma: float, updates: int) -> float:
    """Cross-entropy and distillation at temperature 2 with a share of 0.7, by nn.Linear and SGD."""
    layer = nn.Linear(view.weight.shape[1], view.weight.shape[0])
    layer.load_state_dict({"weight": view.weight.clone(), "bias": view.bias.clone()})
    norms = [1.0 + rows.features.norm(dim=1).square().mean().item() for rows in (view.target, view.candidates)]
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5 / max(norms))
    assert view.target.labels is not None

    def soft(features: Tensor, teacher: Tensor | None) -> Tensor:
        assert teacher is not None
        student = functional.log_softmax(layer(features) / 2.0, dim=1)
        return 4.0 * functional.kl_div(student, (teacher / 2.0).softmax(dim=1), reduction="sum")

    target, added = view.target.take(batch), view.candidates.take(kept)
    for _ in range(updates):
        hard = functional.cross_entropy(layer(target.features), view.target.labels[batch], reduction="sum")
        loss = 0.7 * soft(target.features, target.teacher_logits) + 0.3 * hard
        loss = loss + gamma * 0.7 * soft(added.features, added.teacher_logits)
        slopes = torch.autograd.grad(loss / (len(batch) + gamma * len(kept)), list(layer.parameters()))
        layer.weight.grad, layer.bias.grad = slopes
        optimizer.step()
    assert view.reward.labels is not None
    return functional.cross_entropy(layer(view.reward.features), view.reward.labels).item()


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_a_reward_is_what_torchs_own_training_gives(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], gamma: float
) -> None:
    """Catches a wrong sign, other weights, another start, an update too many, and a mean over the wrong number."""
    view = make_view()
    without = loss_by_hand(view, BATCH, KEPT[:0], gamma=gamma, updates=6)
    beside = loss_by_hand(view, BATCH, KEPT, gamma=gamma, updates=6)
    found = trials_of(view, kd, gamma=gamma).reward(BATCH, KEPT)
    assert abs(without - beside) > 1e-3
    assert found == pytest.approx(without - beside, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_kept_is_worth_exactly_nothing(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], kind: TaskType
) -> None:
    """Catches an empty selection that raises, and a reward of rounding errors for doing nothing."""
    assert trials_of(make_view(kind), kd).reward(BATCH, KEPT[:0]) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_with_gamma_0_every_reward_is_exactly_0(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], kind: TaskType
) -> None:
    """Catches added rows that weigh nothing and yet change the loss, by its denominator for one."""
    trials = trials_of(make_view(kind), kd, gamma=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        kept = torch.randperm(40, generator=generator)[:11]
        assert trials.reward(BATCH, kept) == 0.0


def test_a_row_that_weighs_2_counts_as_two_rows(make_view: Callable[..., View], kd: tuple[LossTerm, ...]) -> None:
    """Catches gamma in the sum but not in the number of rows, or the other way round."""
    view = make_view()
    twice = trials_of(view, kd, gamma=1.0).reward(BATCH, torch.cat([KEPT, KEPT]))
    assert trials_of(view, kd, gamma=2.0).reward(BATCH, KEPT) == pytest.approx(twice, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_episode_starts_from_the_stored_weights(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], kind: TaskType
) -> None:
    """Catches a student that drifts from episode to episode."""
    view = make_view(kind)
    weight, bias = view.weight.clone(), view.bias.clone()
    trials = trials_of(view, kd)
    rewards = [trials.reward(BATCH, KEPT) for _ in range(3)]
    assert rewards[0] == rewards[1] == rewards[2] != 0.0
    assert torch.equal(view.weight, weight)
    assert torch.equal(view.bias, bias)
    assert not view.weight.requires_grad


def test_annealed_targets_have_rewards_too(make_view: Callable[..., View]) -> None:
    """Catches rewards that do not know how far the student is."""
    rewards = [
        trials_of(make_view(progress=progress), bam_terms(BamKnobs())).reward(BATCH, KEPT) for progress in (0.1, 0.8)
    ]
    assert 0.0 not in rewards
    assert rewards[0] != rewards[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_updates_do_not_diverge_whatever_the_size_of_the_features(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], kind: TaskType, size: float
) -> None:
    """Catches a step that fits one student and throws the next one's head away."""
    view = make_view(kind)
    parts = {
        name: dataclasses.replace(getattr(view, name), features=size * getattr(view, name).features)
        for name in ("target", "candidates", "reward")
    }
    scaled = dataclasses.replace(view, weight=view.weight / size, **parts)
    rows, kept = torch.arange(12), torch.arange(40)
    start, end = (trials_of(scaled, kd, updates=updates).loss_after(rows, kept) for updates in (0, 400))
    assert end < 2.0 * start + 0.1


@pytest.mark.parametrize("larger", ["target", "candidates"])
def test_the_larger_features_set_the_step(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], larger: str
) -> None:
    """Catches a step that fits the target's rows and diverges on candidates that are unlike them, or the reverse."""
    view = make_view()
    rows = getattr(view, larger)
    scaled = dataclasses.replace(view, **{larger: dataclasses.replace(rows, features=30.0 * rows.features)})
    norm = 1.0 + float((30.0 * rows.features).square().sum(dim=1).mean())
    assert trials_of(scaled, kd).step == pytest.approx(HEAD_RATE / norm)


def test_a_loss_that_is_no_number_is_named(make_view: Callable[..., View], kd: tuple[LossTerm, ...]) -> None:
    """Catches NaN that flows into the policy and from there into every score."""
    view = make_view()
    assert view.candidates.teacher_logits is not None
    view.candidates.teacher_logits[5] = float("nan")
    with pytest.raises(UserError, match="became nan while the selector learned"):
        trials_of(view, kd).reward(BATCH, KEPT)


def test_a_reward_is_scaled_by_the_rewards_before_it() -> None:
    """Catches a scale or a mean that an episode's own reward is part of, and one of too few rewards."""
    rewards = np.random.default_rng(0).normal(3.0, 2.0, size=30)
    scale = RewardScale()
    scaled = [scale.scaled(float(reward)) for reward in rewards]
    assert scaled[:5] == [(0.0, 0.0)] * 5
    deviations = [rewards[:i].std(ddof=1) for i in range(5, 30)]
    means = [rewards[:i].mean() for i in range(5, 30)]
    np.testing.assert_allclose([pair[0] for pair in scaled[5:]], rewards[5:] / deviations, rtol=1e-9)
    np.testing.assert_allclose([pair[1] for pair in scaled[5:]], (rewards[5:] - means) / deviations, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_rewards_that_never_differ_say_nothing(value: float) -> None:
    """Catches a division by a deviation of rounding errors."""
    scale = RewardScale()
    assert [scale.scaled(value) for _ in range(20)] == [(0.0, 0.0)] * 20
    rounded = RewardScale()
    assert [rounded.scaled(value * (1.0 + 1e-12 * (-1) ** turn)) for turn in range(20)] == [(0.0, 0.0)] * 20


def test_what_was_computed_without_autograd_can_be_trained_on(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...]
) -> None:
    """Catches weights and features of an inference mode, which torch refuses to train on only when it is too late."""
    with torch.inference_mode():
        view = make_view()
    assert view.weight.is_inference()
    assert trials_of(view, kd).reward(BATCH, KEPT) == trials_of(make_view(), kd).reward(BATCH, KEPT)
