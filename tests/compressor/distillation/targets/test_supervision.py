"""Labels and teacher in one loss: kd and bam, with tasks that have no teacher and texts that have no label."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from compressor.distillation.knobs import BamKnobs, KdKnobs
from compressor.distillation.plan import build_plan
from compressor.distillation.presets import parse_method_text
from compressor.distillation.targets.bam import AnnealedTargets, bam_terms, gold_weight
from compressor.distillation.targets.gold import GoldLabels
from compressor.distillation.targets.kd import SoftTargets, kd_terms
from compressor.distillation.targets.term import LossTerm, TaskBatch
from compressor.tasks.registry import TASKS

LABELS = torch.tensor([2, 0, 1, -100, -100])
HAS_LABEL = LABELS >= 0


def batch(*, teacher: bool = True, rows: Sequence[int] = range(5), progress: float = 0.0) -> TaskBatch:
    """Rows of a classification, the last two of them without label."""
    chosen = torch.tensor(list(rows))
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return TaskBatch(
        task=TASKS["classification"],
        logits=logits[0][chosen],
        labels=LABELS[chosen],
        has_label=HAS_LABEL[chosen],
        targets=logits[1][chosen] if teacher else None,
        progress=progress,
    )


def total(terms: Sequence[LossTerm], of: TaskBatch) -> Tensor:
    return sum((term.loss(of) for term in terms), start=torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_task_without_teacher_gets_the_whole_hard_loss_beside_kd(alpha: float) -> None:
    """Catches a task that is taught (1 - alpha) of its loss, or none of it, because others have a teacher."""
    terms = kd_terms(KdKnobs(alpha=alpha))
    labelled = batch(teacher=False, rows=[0, 1, 2])
    assert torch.equal(total(terms, labelled), GoldLabels().loss(labelled))


def test_kd_of_a_task_with_a_teacher_is_what_it_was_bit_for_bit() -> None:
    """Catches weights that change for everybody since some tasks have no teacher."""
    found = total(kd_terms(KdKnobs(alpha=0.7, temperature=3.0)), batch())
    weights = 1.0 - 0.7
    expected = total((SoftTargets(0.7, 3.0), GoldLabels(weights)), batch())
    assert torch.equal(found, expected)
    assert torch.equal(total(kd_terms(KdKnobs(alpha=1.0)), batch()), SoftTargets(1.0, 2.0).loss(batch()))


def test_the_weight_of_the_labels_goes_from_nothing_to_all_but_one_step() -> None:
    """Golden: s / N for s = 0 .. N - 1, the paper's; annealed the other way round, it would end at the teacher."""
    steps = [gold_weight(BamKnobs(), step / 8) for step in range(8)]
    assert steps == [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]
    for progress in (0.0, 0.4, 0.9):
        assert gold_weight(BamKnobs("off"), progress) == 0.0
        assert gold_weight(BamKnobs("constant"), progress) == 0.5
        assert gold_weight(BamKnobs("constant", 0.2), progress) == 0.2


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.875])
def test_texts_without_label_learn_from_the_teacher_in_every_step(progress: float) -> None:
    """Catches an annealing that takes the teacher away from texts that have nothing else."""
    mixed = AnnealedTargets(BamKnobs()).loss(batch(progress=progress))
    labelled = AnnealedTargets(BamKnobs()).loss(batch(rows=[0, 1, 2], progress=progress))
    alone = AnnealedTargets(BamKnobs("off")).loss(batch(rows=[3, 4]))
    torch.testing.assert_close(mixed, labelled + alone)
    by_weight = (1 - progress) * AnnealedTargets(BamKnobs("off")).loss(batch(rows=[0, 1, 2]))
    torch.testing.assert_close(labelled, by_weight + progress * GoldLabels().loss(batch(rows=[0, 1, 2])))


@pytest.mark.parametrize("knobs", [BamKnobs(), BamKnobs("off"), BamKnobs("constant", 0.3)])
def test_a_task_without_teacher_has_its_labels_from_the_first_step_on(knobs: BamKnobs) -> None:
    """Catches a task that begins with a loss of 0 and is annealed into existence."""
    for progress in (0.0, 0.5):
        labelled = batch(teacher=False, rows=[0, 1, 2], progress=progress)
        assert torch.equal(total(bam_terms(knobs), labelled), GoldLabels().loss(labelled))


def test_labels_that_always_weigh_everything_are_the_control() -> None:
    """Catches a Multi control that reads a teacher, or the texts without label, for nothing."""
    assert bam_terms(BamKnobs("constant", 1.0)) == kd_terms(KdKnobs(alpha=0.0)) == (GoldLabels(),)
    assert not build_plan(parse_method_text("bam:annealing=constant:constant=1"), patience=None).reads_teacher
    for text in ("bam", "bam:annealing=off", "bam:annealing=constant", "kd:alpha=1", "kd+sda"):
        assert build_plan(parse_method_text(text), patience=None).reads_teacher, text
    for text in ("none", "sda", "swa"):
        assert not build_plan(parse_method_text(text), patience=None).reads_teacher, text
