"""From scores to kept candidates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from compressor.distillation.augmentation.selector import choose
from compressor.distillation.augmentation.selector.choose import choose_share, keep_top, random_like, teacher_classes
from compressor.distillation.augmentation.selector.episode import HeadTraining, HeadTrials
from compressor.distillation.augmentation.selector.view import View
from compressor.distillation.targets.term import LossTerm
from serving.manifest import TaskType

KINDS: tuple[TaskType, ...] = ("classification", "multilabel", "regression")
CLASSES = np.array([0] * 50 + [1] * 30 + [4] * 17 + [7] * 3)


def counts(kept: np.ndarray, classes: np.ndarray = CLASSES) -> list[int]:
    return [int(kept[classes == name].sum()) for name in np.unique(classes)]


@pytest.mark.parametrize(
    ("share", "wanted"),
    [
        (0.0, [0, 0, 0, 0]),
        (0.25, [13, 7, 4, 1]),
        (0.5, [25, 15, 9, 1]),
        (0.75, [38, 22, 13, 2]),
        (1.0, [50, 30, 17, 3]),
    ],
)
def test_every_class_keeps_its_part_and_the_parts_sum_up(share: float, wanted: list[int]) -> None:
    """Catches a selector that wins by shifting the classes, and roundings that lose or add rows."""
    kept = keep_top(np.random.default_rng(0).random(100), CLASSES, share)
    assert kept.dtype == bool
    assert counts(kept) == wanted
    assert sum(wanted) == round(100 * share)


@pytest.mark.parametrize("share", [0.1, 0.3, 1 / 3, 0.7, 0.99])
@pytest.mark.parametrize("seed", range(5))
def test_quotas_are_within_one_of_the_exact_part(share: float, seed: int) -> None:
    """Catches a remainder that goes to one class several times, or to a class that is full."""
    classes = np.random.default_rng(seed).integers(0, 9, size=77)
    kept = keep_top(np.random.default_rng(seed).random(77), classes, share)
    assert kept.sum() == np.floor(share * 77 + 0.5)
    for name in np.unique(classes):
        own = classes == name
        assert abs(kept[own].sum() - share * own.sum()) < 1.0


def test_the_highest_scores_of_a_class_are_kept_and_ties_go_to_the_first_row() -> None:
    """Catches the lowest scores being kept, and a choice among equals that a library's sort decides."""
    scores = np.array([0.1, 0.9, 0.5, 0.5, 0.5, 0.5])
    assert keep_top(scores, np.array([0, 0, 1, 1, 1, 1]), 0.5).tolist() == [False, True, True, True, False, False]


def test_scores_that_are_no_numbers_are_refused() -> None:
    """Catches NaN that a sort puts wherever it likes."""
    with pytest.raises(ValueError, match="1 of 2 candidates have no score"):
        keep_top(np.array([0.1, np.nan]), np.zeros(2, np.int64), 0.5)


def test_no_candidates_are_legal() -> None:
    """Catches a selection of nothing that raises."""
    nothing = np.zeros(0, np.int64)
    assert len(keep_top(np.zeros(0), nothing, 0.5)) == 0
    assert len(random_like(np.zeros(0, bool), nothing, 0)) == 0
    for kind in KINDS:
        assert len(teacher_classes(np.zeros((0, 2)), kind)) == 0


def test_the_random_control_keeps_as_many_of_every_class() -> None:
    """Catches a control of another number or balance, and one that is not random."""
    kept = keep_top(np.random.default_rng(0).random(100), CLASSES, 0.5)
    drawn = [random_like(kept, CLASSES, seed) for seed in (1, 1, 2)]
    assert all(counts(mask) == counts(kept) for mask in drawn)
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    assert (drawn[0] != kept).any()


def test_classes_are_those_of_the_teachers_predictions() -> None:
    """Catches a class of the least likely label, and a multilabel text without label that counts as the first one."""
    logits = np.array([[0.1, 2.0, 0.0], [-1.0, -0.5, -3.0], [3.0, 2.0, 2.5], [-1.0, -2.0, 0.5]])
    assert teacher_classes(logits, "classification").tolist() == [1, 1, 0, 2]
    assert teacher_classes(logits, "multilabel").tolist() == [1, 3, 0, 2]


def test_a_regression_has_five_equal_parts_of_its_range_of_answers() -> None:
    """Catches bins that leave most texts in one class."""
    values = np.random.default_rng(0).permutation(np.arange(100.0))[:, None] ** 3
    classes = teacher_classes(values, "regression")
    assert np.unique(classes, return_counts=True)[1].tolist() == [20] * 5
    assert classes[values[:, 0].argmin()] == 0
    assert classes[values[:, 0].argmax()] == 4


def test_the_share_with_the_least_loss_on_the_reward_rows_is_chosen(
    poisoned: Callable[[int], Any], kd: tuple[LossTerm, ...]
) -> None:
    """Catches the share of the largest loss, and scores that are not read: half of the candidates are poison."""
    toy = poisoned(0)
    classes = np.zeros(200, np.int64)
    share, found = choose_share([toy.view], toy.is_good.astype(float), classes, kd, gamma=1.0)
    assert share <= 0.5
    assert share == min(found, key=lambda row: row["loss"])["share"]
    assert [(row["share"], row["kept"]) for row in found] == [(0.25, 50), (0.5, 100), (0.75, 150), (1.0, 200)]
    assert found[3]["loss"] > found[1]["loss"] + 0.02
    worst = choose_share([toy.view], -toy.is_good.astype(float), classes, kd, gamma=1.0)[1]
    assert worst[0]["loss"] > found[0]["loss"]


def test_the_loss_of_a_share_is_that_of_a_head_trained_on_everything_kept(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...]
) -> None:
    """Catches a head of an early student, of one fold, of a batch of the target, or one that hardly trains."""
    views = [make_view(seed=fold, progress=progress) for fold in (0, 1) for progress in (0.1, 0.8)]
    scores, classes = np.random.default_rng(0).random(40), np.zeros(40, np.int64)
    found = choose_share(views, scores, classes, kd, gamma=0.5, shares=(0.5,))[1]
    kept = torch.from_numpy(np.flatnonzero(keep_top(scores, classes, 0.5)))
    training = HeadTraining(kd, 0.5, 300)
    losses = [HeadTrials(views[view], training).loss_after(torch.arange(12), kept) for view in (1, 3)]
    assert found == [{"share": 0.5, "kept": 20, "loss": pytest.approx(np.mean(losses)), "gain": 0.0, "error": 0.0}]


def test_no_head_is_trained_on_what_was_made_from_the_rows_that_judge_it(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a share that wins because copies of the reward rows are in it; they are still counted as kept."""
    monkeypatch.setattr(choose, "_UPDATES", 20)
    judged = torch.arange(40) % 3 == 0
    view = dataclasses.replace(make_view(), is_judged=judged)
    scores, classes = np.random.default_rng(0).random(40), np.zeros(40, np.int64)
    (row,) = choose_share([view], scores, classes, kd, gamma=0.5, shares=(0.5,))[1]
    kept = torch.from_numpy(keep_top(scores, classes, 0.5))
    trials = HeadTrials(view, HeadTraining(kd, 0.5, 20))
    allowed, everything = (torch.nonzero(mask).flatten() for mask in (kept & ~judged, kept))
    assert row["loss"] == pytest.approx(trials.loss_after(torch.arange(12), allowed))
    assert row["loss"] != pytest.approx(trials.loss_after(torch.arange(12), everything))
    assert row["kept"] == 20


def test_of_equal_losses_everything_is_kept(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches texts that are dropped for nothing: with gamma 0 all shares are worth the same."""
    monkeypatch.setattr(choose, "_UPDATES", 2)
    scores, classes = np.random.default_rng(0).random(40), np.zeros(40, np.int64)
    share, found = choose_share([make_view()], scores, classes, kd, gamma=0.0, shares=(1.0, 0.25, 0.5))
    assert len({row["loss"] for row in found}) == 1
    assert [row["share"] for row in found] == [0.25, 0.5, 1.0]
    assert share == 1.0


def losses_by_number(losses: Mapping[int, Sequence[float]]) -> Callable[..., torch.Tensor]:
    """What stands for `HeadTrials.losses_after`: the loss of each reward row by the number of candidates kept."""
    return lambda _trials, _batch, kept: torch.tensor(losses[len(kept)])


@pytest.mark.parametrize(("last", "chosen"), [(0.9, 1.0), (0.7, 0.25)])
def test_a_smaller_share_is_chosen_only_where_it_is_clearly_better(
    make_view: Callable[..., View],
    kd: tuple[LossTerm, ...],
    monkeypatch: pytest.MonkeyPatch,
    last: float,
    chosen: float,
) -> None:
    """Catches the least of four losses being believed, and an error that is not the paired difference's.

    With 0.7 the gains are 0.1, 0.1, 0.3: mean 0.167, standard error 0.067. With 0.9 they are 0.1, 0.1, -0.1, and their
    mean, 0.033, is below its error, 0.067, though the loss is the least of all.
    """
    everything = [0.2, 0.6, 1.0 if chosen == 0.25 else 0.8]
    losses = {10: [0.1, 0.5, last], 20: [0.2, 0.6, 1.5], 30: [0.3, 0.6, 1.5], 40: everything}
    monkeypatch.setattr(HeadTrials, "losses_after", losses_by_number(losses))
    scores, classes = np.arange(40.0), np.zeros(40, np.int64)
    share, found = choose_share([make_view()], scores, classes, kd, gamma=1.0)
    assert min(found, key=lambda row: row["loss"])["share"] == 0.25
    assert share == chosen
    gains = np.array(everything) - np.array(losses[10])
    assert found[0]["gain"] == pytest.approx(gains.mean())
    assert found[0]["error"] == pytest.approx(gains.std(ddof=1) / 3**0.5) == pytest.approx(0.2 / 3)


def test_all_folds_reward_rows_say_together_whether_a_share_is_clear(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an error over the folds' means, of which there are four at most."""
    monkeypatch.setattr(choose, "_UPDATES", 20)
    views = [make_view(seed=fold) for fold in (0, 1)]
    scores, classes = np.random.default_rng(0).random(40), np.zeros(40, np.int64)
    found = choose_share(views, scores, classes, kd, gamma=0.5, shares=(0.5, 1.0))[1]
    kept = torch.from_numpy(np.flatnonzero(keep_top(scores, classes, 0.5)))
    trials = [HeadTrials(view, HeadTraining(kd, 0.5, 20)) for view in views]
    rows = torch.arange(12)
    both = [[one.losses_after(rows, some).double() for some in (torch.arange(40), kept)] for one in trials]
    gains = torch.cat([everything - half for everything, half in both])
    assert len(gains) == 20
    assert found[0]["gain"] == pytest.approx(float(gains.mean()))
    assert found[0]["error"] == pytest.approx(float(gains.std()) / 20**0.5)
    assert found[0]["gain"] == pytest.approx(found[1]["loss"] - found[0]["loss"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_is_chosen_for_every_task_type(
    make_view: Callable[..., View], kd: tuple[LossTerm, ...], kind: TaskType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a type whose head cannot be trained here, and views that are changed by it."""
    monkeypatch.setattr(choose, "_UPDATES", 20)
    view = make_view(kind)
    before = dataclasses.replace(view, weight=view.weight.clone())
    assert view.candidates.teacher_logits is not None
    classes = teacher_classes(view.candidates.teacher_logits.numpy(), kind)
    share, _found = choose_share([view], np.random.default_rng(0).random(40), classes, kd, gamma=1.0)
    assert share in (0.25, 0.5, 0.75, 1.0)
    assert torch.equal(view.weight, before.weight)
