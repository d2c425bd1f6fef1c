"""What added rows weigh in a term."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compressor.distillation.augmentation.weight import AddedWeight
from compressor.distillation.plan import build_plan
from compressor.distillation.presets import parse_method
from compressor.distillation.targets.kd import SoftTargets
from compressor.distillation.targets.term import TaskBatch
from compressor.tasks.registry import TASKS


def batch(is_added: list[bool] | None) -> TaskBatch:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    marks = None if is_added is None else torch.tensor(is_added)
    labels = torch.tensor([0, 1, 2, 0])
    has_label = torch.ones(4, dtype=torch.bool)
    return TaskBatch(TASKS["classification"], logits, labels, has_label, targets, is_added=marks)


def rows(weight: float, is_added: list[bool] | None) -> float:
    return float(AddedWeight(SoftTargets(1.0, 2.0), weight).loss(batch(is_added)))


def test_only_added_rows_are_weighed() -> None:
    """Catches a gamma that scales the task's own rows too, or rows that lose their places among targets."""
    term = SoftTargets(1.0, 2.0)
    each = [float(term.loss(batch(None).select(torch.tensor([row == at for at in range(4)])))) for row in range(4)]
    assert rows(0.5, [False, True, False, True]) == pytest.approx(each[0] + each[2] + 0.5 * (each[1] + each[3]))
    assert rows(0.5, [True] * 4) == pytest.approx(0.5 * sum(each))
    assert rows(0.5, [False] * 4) == pytest.approx(sum(each))
    assert rows(0.5, None) == pytest.approx(sum(each))


def test_a_weight_of_one_is_the_term_itself() -> None:
    """Catches two sums in another order where nothing is weighed: the plan leaves such terms as they are."""
    plain, weighed = (build_plan(parse_method(text), patience=None) for text in ("kd", "l2a:weight=1"))
    assert plain.terms == weighed.terms
    half = build_plan(parse_method("l2a:weight=0.5"), patience=None)
    assert half.terms == tuple(AddedWeight(term, 0.5) for term in plain.terms)
    assert [term.name for term in half.terms] == [term.name for term in plain.terms]
    assert [term.reads_teacher for term in half.terms] == [True, False]


def test_gradients_reach_every_row_by_its_weight() -> None:
    """Catches a selection of rows that cuts the graph."""
    given = batch([False, True, False, True])
    logits = given.logits.clone().requires_grad_()

    def slopes(weight: float) -> Tensor:
        moved = TaskBatch(given.task, logits, given.labels, given.has_label, given.targets, is_added=given.is_added)
        (found,) = torch.autograd.grad(AddedWeight(SoftTargets(1.0, 2.0), weight).loss(moved), logits)
        return found

    one, half = slopes(1.0), slopes(0.5)
    assert torch.allclose(half[[0, 2]], one[[0, 2]])
    assert torch.allclose(half[[1, 3]], 0.5 * one[[1, 3]])
