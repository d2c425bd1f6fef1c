"""What the policy knows of a candidate, and the fixed filter that it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressor.distillation.augmentation.selector.view import (
    View,
    head_logits,
    present,
    reward_losses,
    training_loss,
)
from compressor.distillation.targets.term import LossTerm

PROJECTED_WIDTH = 16
FACTS = ("kd_loss", "teacher_entropy", "domain_score", "edit_ratio", "alignment")
"""Columns that a policy of `state: facts` reads."""


@dataclass(frozen=True)
class CandidateFacts:
    """What is known of the candidates whatever the student says of them.

    Attributes:
        edit_ratios: share of changed words, in [0, 1], [candidates].
        domain_scores: how likely a text is the target's, in [0, 1], [candidates]; NaN where there is no source.
    """

    edit_ratios: np.ndarray
    domain_scores: np.ndarray


@dataclass(frozen=True)
class State:
    """The candidates in the eyes of one stored student.

    Attributes:
        features: what the policy reads, float32 [candidates, features]; mean 0 and deviation 1 over the candidates,
            0 for what does not vary.
        filter_scores: of the fixed filter, float32 [candidates].
        alignment: of a candidate's head gradient with the reward rows', float32 [candidates].
        names: of the features.
    """

    features: Tensor
    filter_scores: Tensor
    alignment: Tensor
    names: tuple[str, ...]

    @property
    def standard_filter(self) -> Tensor:
        """The filter's scores with mean 0 and deviation 1: the same order, [candidates]."""
        return standardised(self.filter_scores[:, None])[:, 0]


def candidate_states(
    views: Sequence[View], facts: CandidateFacts, terms: Sequence[LossTerm], *, only: Sequence[str] | None = None
) -> list[State]:
    """The state of every candidate in every view.

    The student's features are reduced to their principal axes over the candidates of all views together: the policy
    is one for all views, so an axis must mean the same in each. Scales are each view's own, since losses and
    gradients shrink while a student learns. Nothing but candidates is read to standardise.

    Args:
        views: stored students.
        facts: what else is known of their candidates.
        terms: of the student's loss.
        only: columns that the policy reads; None: all.
    """
    axes = principal_axes([view.candidates.features for view in views])
    return [_state(view, facts, terms, axes, only) for view in views]


def _state(
    view: View, facts: CandidateFacts, terms: Sequence[LossTerm], axes: Tensor, only: Sequence[str] | None
) -> State:
    logits, teacher = _student_logits(view), present(view.candidates.teacher_logits)
    aligned, scores = alignment(view, terms), filter_scores(view)
    columns = {
        "feature": view.candidates.features @ axes,
        "teacher": _outputs(view, teacher),
        "student": _outputs(view, logits),
        "kd_loss": teacher_distance(view)[:, None],
        "teacher_entropy": _entropy(view, teacher)[:, None],
        "domain_score": _column(facts.domain_scores),
        "edit_ratio": _column(facts.edit_ratios),
        "alignment": aligned[:, None],
    }
    columns = {name: column for name, column in columns.items() if only is None or name in only}
    names = [
        name if column.shape[1] == 1 and name not in ("feature", "teacher", "student") else f"{name}_{index}"
        for name, column in columns.items()
        for index in range(column.shape[1])
    ]
    return State(standardised(torch.cat(list(columns.values()), dim=1)), scores, aligned, tuple(names))


def filter_scores(view: View) -> Tensor:
    """The fixed filter: the teacher's confidence minus the student's distance from the teacher, [candidates].

    A regression has no confidence: there the distance alone counts.
    """
    probabilities = _outputs(view, present(view.candidates.teacher_logits))
    if view.task.type == "regression":
        return -teacher_distance(view)
    if view.task.type == "multilabel":  # the least sure label decides
        return torch.maximum(probabilities, 1.0 - probabilities).min(dim=1).values - teacher_distance(view)
    return probabilities.max(dim=1).values - teacher_distance(view)


def teacher_distance(view: View) -> Tensor:
    """The soft loss at temperature 1 above its least value, [candidates], at least 0: 0 where both say the same."""
    teacher = present(view.candidates.teacher_logits)
    loss = view.task.soft_loss(_student_logits(view), teacher, 1.0) - view.task.soft_loss(teacher, teacher, 1.0)
    return loss.clamp(min=0.0)


def alignment(view: View, terms: Sequence[LossTerm]) -> Tensor:
    """Inner product of a candidate's gradient of the layer's weight with the reward rows' mean one, [candidates].

    It is (dl_i/dz . dL_v/dz) (h_i . h_v) averaged over the reward rows v; for a soft loss at temperature 1 and a
    classification ((p_S - q) . (p_S(v) - y_v)) h_i . h_v. Above 0, a small step on the candidate lowers L_V. What was
    made from a reward row would be aligned with that row: it gets the mean of the others.
    """
    candidates, reward = view.candidates, view.reward
    logits = _student_logits(view).requires_grad_()
    loss = training_loss(view, candidates, logits, terms)
    (slopes,) = torch.autograd.grad(loss, logits)
    answers = head_logits(reward.features, view.weight, view.bias).detach().requires_grad_()
    (reward_slopes,) = torch.autograd.grad(reward_losses(view, answers).mean(), answers)
    found = ((slopes @ (reward_slopes.T @ reward.features)) * candidates.features).sum(dim=1)
    others = found[view.may_train]
    return torch.where(view.may_train, found, others.mean() if len(others) else found.new_zeros(()))


def principal_axes(parts: Sequence[Tensor]) -> Tensor:
    """The first principal axes of features that are each centred by themselves, [width, at most 16].

    Args:
        parts: features [rows, width] each.
    """
    centred = torch.cat([part - part.mean(dim=0) for part in parts]).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)
    first = axes.flip(1)[:, :PROJECTED_WIDTH]
    largest = first.gather(0, first.abs().argmax(dim=0, keepdim=True))
    signed: Tensor = first * largest.sign()
    return signed.float()


def standardised(columns: Tensor) -> Tensor:
    """Columns with mean 0 and deviation 1; one that varies by rounding alone is 0. [rows, columns] to the same."""
    centred = columns - columns.mean(dim=0)
    deviation = centred.square().mean(dim=0).sqrt()
    varies = deviation > 1e-6 * columns.abs().amax(dim=0)
    return torch.where(varies, centred / deviation.where(varies, torch.ones_like(deviation)), 0.0)


def _student_logits(view: View) -> Tensor:
    return head_logits(view.candidates.features, view.weight, view.bias).detach()


def _outputs(view: View, logits: Tensor) -> Tensor:
    """Probabilities, or a regression's values as they are, [rows, outputs]."""
    if view.task.type == "regression":
        return logits
    return torch.softmax(logits, dim=1) if view.task.type == "classification" else torch.sigmoid(logits)


def _entropy(view: View, logits: Tensor) -> Tensor:
    """Of the teacher's answer in nats, [rows]; mean over the labels of a multilabel task; 0 for a regression."""
    if view.task.type == "regression":
        return logits.new_zeros(len(logits))
    probabilities = _outputs(view, logits)
    if view.task.type == "classification":
        whole: Tensor = torch.special.entr(probabilities).sum(dim=1)
        return whole
    each: Tensor = torch.special.entr(probabilities) + torch.special.entr(1.0 - probabilities)
    return each.mean(dim=1)


def _column(values: np.ndarray) -> Tensor:
    """One column, [rows, 1]; 0 where a value is unknown."""
    return torch.from_numpy(np.nan_to_num(np.asarray(values, dtype=np.float32), nan=0.0))[:, None]
