"""What the selector sees of a stored student."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from compressor.data.batches import IGNORED_LABEL
from compressor.distillation.augmentation.selector.view import Rows, View, head_logits, last_views, training_loss
from compressor.distillation.knobs import BamKnobs, KdKnobs
from compressor.distillation.targets.bam import bam_terms
from compressor.distillation.targets.kd import kd_terms
from compressor.distillation.targets.term import LossTerm, TaskBatch
from serving.manifest import TaskType

KINDS: tuple[TaskType, ...] = ("classification", "multilabel", "regression")
TERMS = {"kd": kd_terms(KdKnobs(alpha=0.6)), "bam": bam_terms(BamKnobs())}


def test_columns_of_another_length_are_refused() -> None:
    """Catches labels that stand one row off, which broadcasting would hide."""
    with pytest.raises(ValueError, match="3 rows of features have 2 labels"):
        Rows(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="3 rows of features have 4 teacher_logits"):
        Rows(torch.zeros(3, 2), None, torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("field", "column"),
    [("target", "labels"), ("reward", "labels"), ("target", "teacher_logits"), ("candidates", "teacher_logits")],
)
def test_a_view_without_what_its_losses_read_is_refused(
    make_view: Callable[..., View], field: str, column: str
) -> None:
    """Catches a view that fails only after its students were trained."""
    view = make_view()
    lacking = dataclasses.replace(getattr(view, field), **{column: None})
    with pytest.raises(ValueError, match="must have"):
        dataclasses.replace(view, **{field: lacking})


@pytest.mark.parametrize("field", ["target", "reward"])
def test_a_view_without_target_or_reward_rows_is_refused(make_view: Callable[..., View], field: str) -> None:
    """Catches the mean of nothing, which is not a number."""
    view = make_view()
    none = getattr(view, field).take(torch.arange(0))
    with pytest.raises(ValueError, match="it needs both"):
        dataclasses.replace(view, **{field: none})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_candidates_are_taught_by_the_teacher_alone(
    make_view: Callable[..., View], kind: TaskType, terms: tuple[LossTerm, ...]
) -> None:
    """Catches a candidate whose missing label is learned from, and a weight of the soft loss that is lost."""
    view = make_view(kind)
    rows, teacher = view.candidates, view.candidates.teacher_logits
    assert teacher is not None
    logits = head_logits(rows.features, view.weight, view.bias)
    if len(terms) == 2:
        wanted = 0.6 * view.task.soft_loss(logits, teacher, 2.0).sum()
    else:
        none = torch.zeros(len(rows))
        labels = labels_like(view)
        wanted = view.task.mixed_loss(logits, labels, teacher, none).sum()
    torch.testing.assert_close(training_loss(view, rows, logits, terms), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_for_a_missing_label_cannot_be_learned_from_unseen(
    make_view: Callable[..., View], kind: TaskType
) -> None:
    """Catches a 0 where no label is: a loss that forgets to look would teach the first class unseen."""
    seen: list[TaskBatch] = []

    class Careless:
        name, reads_teacher = "careless", True

        def loss(self, batch: TaskBatch) -> torch.Tensor:
            seen.append(batch)
            return batch.logits.sum()

    view = make_view(kind)
    training_loss(view, view.candidates, head_logits(view.candidates.features, view.weight, view.bias), [Careless()])
    (batch,) = seen
    assert not batch.has_label.any()
    assert len(batch.labels) == len(view.candidates)
    is_marked = batch.labels.isnan() if batch.labels.is_floating_point() else batch.labels == IGNORED_LABEL
    assert is_marked.all()


def labels_like(view: View) -> torch.Tensor:
    assert view.target.labels is not None
    return view.target.labels.new_zeros((len(view.candidates), *view.target.labels.shape[1:]))


@pytest.mark.parametrize("kind", KINDS)
def test_annealed_targets_read_how_far_the_stored_student_is(make_view: Callable[..., View], kind: TaskType) -> None:
    """Catches a late student that is taught as if it were a new one."""
    view = make_view(kind, progress=0.3)
    rows = view.target
    assert rows.labels is not None
    assert rows.teacher_logits is not None
    logits = head_logits(rows.features, view.weight, view.bias)
    wanted = view.task.mixed_loss(logits, rows.labels, rows.teacher_logits, torch.full((len(rows),), 0.3)).sum()
    torch.testing.assert_close(training_loss(view, rows, logits, TERMS["bam"]), wanted)


def test_a_head_answers_with_its_bias() -> None:
    """Catches a bias that is left out, and a transposed weight."""
    logits = head_logits(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([5.0, 6.0]))
    assert logits.tolist() == [[6.0, 9.0]]


def test_the_last_views_are_one_per_fold(make_view: Callable[..., View]) -> None:
    """Catches scores of a student that had hardly begun."""
    views = [make_view(seed=fold, progress=progress) for fold in (0, 1) for progress in (0.1, 0.8, 0.4)]
    assert last_views(views) == [1, 4]
