"""What the policy knows of a candidate, by hand and by brute force."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from compressor.distillation.augmentation.selector.state import (
    CandidateFacts,
    alignment,
    candidate_states,
    filter_scores,
    principal_axes,
    standardised,
    teacher_distance,
)
from compressor.distillation.augmentation.selector.view import Rows, View, head_logits, reward_losses, training_loss
from compressor.distillation.knobs import BamKnobs, KdKnobs
from compressor.distillation.targets.bam import bam_terms
from compressor.distillation.targets.kd import kd_terms
from compressor.distillation.targets.term import LossTerm
from serving.manifest import TaskType

KINDS: tuple[TaskType, ...] = ("classification", "multilabel", "regression")
TERMS = {"kd": kd_terms(KdKnobs()), "bam": bam_terms(BamKnobs())}


def gradient(view: View, loss: Callable[[Tensor], Tensor]) -> Tensor:
    weight = view.weight.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(weight), weight)
    return slope


def loss_of(view: View, rows: Rows, terms: tuple[LossTerm, ...], weight: Tensor) -> Tensor:
    return training_loss(view, rows, head_logits(rows.features, weight, view.bias), terms)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_alignment_is_the_inner_product_of_weight_gradients(
    make_view: Callable[..., View], kind: TaskType, terms: tuple[LossTerm, ...]
) -> None:
    """Catches a sum for a mean, swapped factors, and a type whose loss has another gradient."""
    view = make_view(kind)
    held_back = gradient(view, lambda w: reward_losses(view, head_logits(view.reward.features, w, view.bias)).mean())
    wanted = []
    for row in range(len(view.candidates)):
        one = view.candidates.take(torch.tensor([row]))
        own = gradient(view, partial(loss_of, view, one, terms))
        wanted.append((own * held_back).sum())
    torch.testing.assert_close(alignment(view, terms), torch.stack(wanted), rtol=1e-4, atol=1e-6)


def test_alignment_is_the_formula_where_there_is_one(make_view: Callable[..., View]) -> None:
    """Catches a general form that is not ((p_S - q) . (p_S(v) - y_v)) h_i . h_v averaged over v."""
    view = make_view()
    assert view.candidates.teacher_logits is not None
    assert view.reward.labels is not None
    ours = head_logits(view.candidates.features, view.weight, view.bias).softmax(dim=1)
    theirs = head_logits(view.reward.features, view.weight, view.bias).softmax(dim=1)
    residual = ours - view.candidates.teacher_logits.softmax(dim=1)
    errors = theirs - torch.nn.functional.one_hot(view.reward.labels, 3)
    wanted = ((residual @ errors.T) * (view.candidates.features @ view.reward.features.T)).mean(dim=1)
    found = alignment(view, kd_terms(KdKnobs(alpha=1.0, temperature=1.0)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_alignment_is_what_a_small_step_on_the_candidate_is_worth(
    make_view: Callable[..., View], kind: TaskType
) -> None:
    """Catches a sign that keeps exactly what harms."""
    view, terms = make_view(kind), TERMS["kd"]
    aligned = alignment(view, terms)

    def held_back(weight: Tensor) -> float:
        features = view.reward.features.double()
        labels = view.reward.labels
        assert labels is not None
        return float(view.task.hard_loss(head_logits(features, weight, view.bias.double()), labels).mean())

    for row in range(10):
        one = view.candidates.take(torch.tensor([row]))
        own = gradient(view, partial(loss_of, view, one, terms)).double()
        worth = held_back(view.weight.double()) - held_back(view.weight.double() - 1e-5 * own)
        assert worth / 1e-5 == pytest.approx(float(aligned[row]), rel=0.01, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_made_from_a_reward_row_is_not_aligned_with_it(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], kind: TaskType
) -> None:
    """Catches a candidate that is chosen because the row that judges it is its own start."""
    view = make_view(kind)
    judged = torch.arange(len(view.candidates)) % 4 == 0
    plain = alignment(view, kd)
    found = alignment(dataclasses.replace(view, is_judged=judged), kd)
    torch.testing.assert_close(found[~judged], plain[~judged])
    torch.testing.assert_close(found[judged], plain[~judged].mean().expand(int(judged.sum())))
    assert not torch.isclose(plain[judged], found[judged]).all()
    assert (alignment(dataclasses.replace(view, is_judged=torch.ones_like(judged)), kd) == 0.0).all()


def test_the_filter_is_confidence_minus_distance(make_view: Callable[..., View]) -> None:
    """Catches a filter that prefers unsure teachers or far students, in each task type."""
    view = make_view()
    teacher, answers = view.candidates.teacher_logits, head_logits(view.candidates.features, view.weight, view.bias)
    assert teacher is not None
    theirs, ours = teacher.softmax(dim=1), answers.softmax(dim=1)
    distance = (theirs * (theirs / ours).log()).sum(dim=1)
    torch.testing.assert_close(filter_scores(view), theirs.max(dim=1).values - distance, rtol=1e-4, atol=1e-5)


def test_the_least_sure_label_is_the_confidence_of_a_multilabel_teacher(make_view: Callable[..., View]) -> None:
    """Catches a teacher that counts as sure because one of its labels is."""
    view = make_view("multilabel")
    teacher = view.candidates.teacher_logits
    assert teacher is not None
    sure = teacher.sigmoid().sub(0.5).abs().min(dim=1).values + 0.5
    torch.testing.assert_close(filter_scores(view) + teacher_distance(view), sure)


def test_a_regression_is_filtered_by_distance_alone(make_view: Callable[..., View]) -> None:
    """Catches a large value that is taken for a confidence."""
    view = make_view("regression")
    teacher = view.candidates.teacher_logits
    assert teacher is not None
    answers = head_logits(view.candidates.features, view.weight, view.bias)
    torch.testing.assert_close(filter_scores(view), -(answers - teacher).square()[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_agrees_has_no_distance(make_view: Callable[..., View], kind: TaskType) -> None:
    """Catches a teacher's own uncertainty that is counted as the student's distance."""
    view = make_view(kind)
    answers = head_logits(view.candidates.features, view.weight, view.bias)
    agreed = dataclasses.replace(view, candidates=dataclasses.replace(view.candidates, teacher_logits=answers))
    torch.testing.assert_close(teacher_distance(agreed), torch.zeros(40), rtol=0, atol=1e-6)
    assert min(float(teacher_distance(one).min()) for one in (view, agreed)) >= 0.0
    assert float(teacher_distance(view).max()) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_has_every_feature_and_each_is_standardised(
    make_view: Callable[..., View], make_facts: Callable[..., CandidateFacts], kind: TaskType
) -> None:
    """Catches a feature that is left out, one in its own units that drowns the others, and names that do not fit."""
    (state,) = candidate_states([make_view(kind)], make_facts(), TERMS["kd"])
    outputs = 1 if kind == "regression" else 3
    groups = {"feature": 6, "teacher": outputs, "student": outputs}
    wanted = [f"{name}_{i}" for name, number in groups.items() for i in range(number)]
    wanted += ["kd_loss", "teacher_entropy", "domain_score", "edit_ratio", "alignment"]
    assert list(state.names) == wanted
    assert state.features.shape == (40, len(wanted))
    assert state.features.dtype == torch.float32
    torch.testing.assert_close(state.features.mean(dim=0), torch.zeros(len(wanted)), rtol=0, atol=1e-5)
    silent = [name for name, size in zip(wanted, state.features.std(dim=0), strict=True) if size == 0.0]
    assert silent == (["teacher_entropy"] if kind == "regression" else [])
    spread = state.features.square().mean(dim=0)
    torch.testing.assert_close(spread[spread > 0], torch.ones(len(wanted) - len(silent)))


def test_the_columns_of_a_state_are_what_their_names_say(
    make_view: Callable[..., View], make_facts: Callable[..., CandidateFacts]
) -> None:
    """Catches columns in another order than their names, and a student's answer where the teacher's belongs."""
    view, facts = make_view(), make_facts()
    (state,) = candidate_states([view], facts, TERMS["kd"])
    assert view.candidates.teacher_logits is not None
    teacher = view.candidates.teacher_logits.softmax(dim=1)
    student = head_logits(view.candidates.features, view.weight, view.bias).softmax(dim=1)
    raw = {
        "teacher_1": teacher[:, 1],
        "student_2": student[:, 2],
        "kd_loss": teacher_distance(view),
        "teacher_entropy": -(teacher * teacher.log()).sum(dim=1),
        "domain_score": torch.tensor(np.nan_to_num(facts.domain_scores)),
        "edit_ratio": torch.tensor(facts.edit_ratios),
        "alignment": alignment(view, TERMS["kd"]),
    }
    for name, column in raw.items():
        found = state.features[:, state.names.index(name)]
        assert np.corrcoef(found.numpy(), column.numpy())[0, 1] > 0.9999
    torch.testing.assert_close(state.filter_scores, filter_scores(view))
    torch.testing.assert_close(state.alignment, alignment(view, TERMS["kd"]))


def test_without_a_source_the_domain_score_says_nothing(make_view: Callable[..., View]) -> None:
    """Catches NaN in the policy where a task has no source."""
    facts = CandidateFacts(np.zeros(40, np.float32), np.full(40, np.nan, np.float32))
    (state,) = candidate_states([make_view()], facts, TERMS["kd"])
    assert bool(state.features.isfinite().all())
    assert float(state.features[:, state.names.index("domain_score")].abs().max()) == 0.0


def test_the_features_of_all_views_lie_along_the_same_axes(
    make_view: Callable[..., View], make_facts: Callable[..., CandidateFacts]
) -> None:
    """Catches an axis that means one thing early in the training and another one later."""
    early = make_view(progress=0.1)
    moved = dataclasses.replace(early.candidates, features=early.candidates.features + 3.0)
    late = dataclasses.replace(early, progress=0.8, candidates=moved)
    other = make_view(seed=9)
    states = candidate_states([early, late, other], make_facts(), TERMS["kd"])
    torch.testing.assert_close(states[0].features[:, :6], states[1].features[:, :6], rtol=0, atol=1e-4)


def test_principal_axes_are_those_of_the_largest_spread() -> None:
    """Catches the axes of least spread, an axis of a mean that a view has, and more axes than the policy can read."""
    generator = torch.Generator().manual_seed(0)
    spreads = torch.linspace(1.0, 9.0, 30)
    parts = [spreads * torch.randn(500, 30, generator=generator) + 100.0 * shift for shift in (0, 1)]
    axes = principal_axes(parts)
    assert axes.shape == (30, 16)
    torch.testing.assert_close(axes.T @ axes, torch.eye(16), rtol=0, atol=1e-5)
    variances = torch.cat([(part - part.mean(dim=0)) @ axes for part in parts]).var(dim=0)
    assert variances.tolist() == sorted(variances.tolist(), reverse=True)
    assert float(variances[0]) > 60.0
    assert bool((axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)) > 0).all())


def test_what_does_not_vary_is_0() -> None:
    """Catches a constant whose rounding errors are blown up to a feature."""
    columns = torch.stack([torch.full((7,), 0.1), torch.arange(7.0), torch.zeros(7)], dim=1)
    found = standardised(columns)
    assert found[:, [0, 2]].abs().max() == 0.0
    torch.testing.assert_close(found[:, 1], (torch.arange(7.0) - 3.0) / 2.0)


def test_a_state_can_be_made_of_what_was_computed_without_autograd(
    make_view: Callable[..., View], make_facts: Callable[..., CandidateFacts]
) -> None:
    """Catches an alignment that only works on features that autograd has followed."""
    with torch.inference_mode():
        view = make_view()
    (found,), (wanted,) = (candidate_states([each], make_facts(), TERMS["kd"]) for each in (view, make_view()))
    assert torch.equal(found.features, wanted.features)
