"""The selection stage on toys: who trains its students, who judges, what an interrupted call leaves."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.data.batches import tokenise
from compressor.data.splits import ADDED, TRAIN, UNLABELLED, TaskData
from compressor.distillation.augmentation.candidates import Candidates
from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.reward_rows import reward_folds
from compressor.distillation.augmentation.selector.choose import keep_top, random_like
from compressor.distillation.augmentation.selector.learn import learn_selector
from compressor.distillation.augmentation.selector.view import View, present
from compressor.distillation.presets import parse_method
from compressor.distillation.training import TrainingJob, train
from compressor.distillation.weights.states import StatesAtShares
from compressor.models.checkpoint import load_with_tokenizer
from compressor.models.predict import predict_logits
from compressor.pipeline import selecting
from compressor.pipeline.added import KEPT_FILE
from compressor.pipeline.full_updates import FullUpdates
from compressor.pipeline.selecting import SELECTION_FILE, select_candidates
from compressor.pipeline.selection_input import STATES, Selecting
from compressor.recipe import Recipe
from compressor.recipe_file import changed_recipe

FEW, ENOUGH = 24, 40  # rows: four folds take turns as the judge, or one mask of rows judges
TRAINING = {"steps": 5, "batch_size": 8, "dtype": "fp32", "threads": 1}
KNOBS = L2aKnobs(episodes=6, updates=2, episode_size=8, full_every=3, share=0.5)


class Killed(Exception):
    """The process ends here."""


def candidates_of(data: TaskData) -> Candidates:
    """Two made from every train row; and some of a source, whose rows have other numbers."""
    starts = np.concatenate([np.arange(len(data.splits[TRAIN])).repeat(2), np.arange(0, 60, 5)])
    is_source = np.arange(len(starts)) >= 2 * len(data.splits[TRAIN])
    generator = np.random.default_rng(0)
    texts: list[tuple[str, ...]] = [(f"{data.splits['test'].texts[row % 24][0]} {row}",) for row in range(len(starts))]
    return Candidates(
        texts=texts,
        starts=texts,
        is_source=is_source,
        start_rows=starts,
        rounds=np.ones(len(starts), dtype=np.int64),
        edit_ratios=generator.random(len(starts)).astype(np.float32),
        domain_scores=generator.random(len(starts)).astype(np.float32),
        logits=generator.normal(size=(len(starts), 3)).astype(np.float32),
    )


@pytest.fixture
def work(toy_data: TaskData, checkpoint: Callable[..., Path]) -> Callable[..., Selecting]:
    """A factory: number of train rows, and changes of the training -> what a selection reads."""
    values = {"name": "toy", "tasks": {"topic": {"data": "x.csv"}}, "max_length": 32}
    student = {"model": str(checkpoint()), "layers": 1}

    def make(number: int, **changes: float) -> Selecting:
        recipe = Recipe.model_validate({**values, "student": student, "training": {**TRAINING, **changes}})
        rows = toy_data.splits[TRAIN].select(np.arange(number))
        data = replace(toy_data, splits={**toy_data.splits, TRAIN: rows})
        targets = np.random.default_rng(1).normal(size=(number, 3)).astype(np.float32)
        return Selecting(data, targets, candidates_of(data), recipe, parse_method("kd"), KNOBS, teacher=None)

    return make


@dataclass
class Seen:
    """What the parts of selections were given.

    Attributes:
        jobs: of the students' trainings, in order.
        steps: that they took, in order.
        views: of the episodes.
        updates: of whole students.
    """

    jobs: list[TrainingJob] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    updates: list[FullUpdates] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """A witness of the next selections, which changes nothing."""
    found = Seen()
    after = StatesAtShares.after_step

    def training(job: TrainingJob, folder: Path) -> None:
        found.jobs.append(job)
        train(job, folder)

    def learning(views: list[View], *given: Any, full_reward: Any, **named: Any) -> Any:
        found.views += views
        found.updates.append(full_reward.__self__)
        return learn_selector(views, *given, full_reward=full_reward, **named)

    def stepping(self: StatesAtShares, model: nn.Module, step: int) -> None:
        found.steps.append(step)
        after(self, model, step)

    monkeypatch.setattr(selecting, "train", training)
    monkeypatch.setattr(selecting, "learn_selector", learning)
    monkeypatch.setattr(StatesAtShares, "after_step", stepping)
    return found


def selected(work: Selecting, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    select_candidates(folder, work)
    return folder


def results(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """The choice, and all that was learned; clocks may differ."""
    facts = json.loads((folder / SELECTION_FILE).read_text())
    assert facts.pop("seconds")
    return (folder / KEPT_FILE).read_bytes(), facts


def test_a_candidate_is_made_from_its_own_start_row_alone(work: Callable[..., Selecting]) -> None:
    """Catches candidates of reward rows that are taken for others, and source rows taken for target rows."""
    one, rows = work(FEW), np.zeros(FEW, dtype=bool)
    assert not one.made_from(rows).any()
    assert one.made_from(~rows).tolist() == (~one.candidates.is_source).tolist()
    rows[[0, 3, FEW - 1]] = True
    assert np.flatnonzero(one.made_from(rows)).tolist() == [0, 1, 6, 7, 2 * FEW - 2, 2 * FEW - 1]


def test_what_judges_a_student_has_not_taught_it(work: Callable[..., Selecting], seen: Seen, tmp_path: Path) -> None:
    """Catches reward rows, or texts made from them, in what trains the student or the head that they judge."""
    one = work(FEW)
    own, folds = one.data.splits[TRAIN], reward_folds(one.data)
    selected(one, tmp_path)
    assert len(folds) == len(seen.jobs) == 4
    for job, mask in zip(seen.jobs, folds, strict=True):
        assert job.data["topic"].splits[TRAIN].texts == own.select(~mask).texts
        assert not {UNLABELLED, ADDED} & job.data["topic"].splits.keys()
        np.testing.assert_array_equal(job.targets["topic"], one.targets[~mask])
    (updates,) = seen.updates
    stored = [(mask, share) for mask in folds for share in (0.1, 0.4, 0.8)]
    for view, state, (mask, share) in zip(seen.views, updates.states, stored, strict=True):
        assert view.progress == state.progress == share
        assert view.is_judged is not None
        assert view.is_judged.tolist() == one.made_from(mask).tolist()
        assert state.is_reward.tolist() == mask.tolist()
        assert present(view.reward.labels).tolist() == np.asarray(own.select(mask).labels).tolist()
        assert present(view.target.labels).tolist() == np.asarray(own.select(~mask).labels).tolist()
        np.testing.assert_array_equal(present(view.target.teacher_logits), one.targets[~mask])
    _all_differ([view.weight for view in seen.views[: len(STATES)]])
    _all_differ([view.weight for view in seen.views[len(STATES) - 1 :: len(STATES)]])


@pytest.mark.parametrize("confirms", [True, False])
@pytest.mark.parametrize("rows", [FEW, ENOUGH])
def test_a_smaller_share_is_kept_only_if_whole_students_confirm_it(
    work: Callable[..., Selecting],
    seen: Seen,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    confirms: bool,
    rows: int,
) -> None:
    """Catches the head's wish taken for granted, and students that read other texts than those in question.

    The loss of a student is made up: it rises with the texts that it has read, or falls.
    """
    one = replace(work(rows), knobs=replace(KNOBS, share=None, target_share=0.7))
    one = replace(one, recipe=changed_recipe(one.recipe, {"order_seed": 5}, origin="test"))
    own, folds, texts = one.data.splits[TRAIN], reward_folds(one.data), one.candidates.texts
    tried = [{"share": 0.25, "loss": 0.1}, {"share": 1.0, "loss": 0.2}]
    monkeypatch.setattr(selecting, "choose_share", lambda *_, **__: (0.25, tried))

    def losses(place: Path, _work: Selecting, judged: np.ndarray) -> np.ndarray:
        read = "part" in place.name
        return np.arange(judged.sum()) + (0.0 if read == confirms else 0.5 + 0.1 * (np.arange(judged.sum()) % 2))

    monkeypatch.setattr(selecting, "_losses", losses)
    kept = np.load(selected(one, tmp_path) / KEPT_FILE)
    facts = results(tmp_path)[1]
    assert facts["share"] == (0.25 if confirms else 1.0)
    assert facts["confirmation"]["share"] == 0.25
    assert (facts["confirmation"]["gain"] > facts["confirmation"]["error"]) == confirms
    classes = np.argmax(np.asarray(one.candidates.logits), axis=1)
    wanted = keep_top(np.array(facts["scores"]), classes, 0.25)
    assert kept["learned"].tolist() == (wanted if confirms else np.ones(len(texts), dtype=bool)).tolist()
    assert kept["random"].tolist() == random_like(kept["learned"], classes, seed=5).tolist()
    by_filter = keep_top(np.array(facts["filter_scores"]), classes, facts["share"])
    assert kept["filter"].tolist() == by_filter.tolist()
    assert not confirms or len({kept[name].tobytes() for name in ("learned", "random", "filter")}) == 3
    jobs = seen.jobs[len(folds) :]
    for job, mask, some in zip(
        jobs, [*folds, *folds], [wanted] * len(folds) + [np.ones_like(wanted)] * len(folds), strict=True
    ):
        read = some & ~one.made_from(mask)
        assert job.data["topic"].splits[TRAIN].texts == own.select(~mask).texts
        assert job.data["topic"].splits[ADDED].texts == [texts[row] for row in np.flatnonzero(read)]
        logits = np.concatenate([one.targets[~mask], np.asarray(one.candidates.logits)[read]])
        np.testing.assert_array_equal(job.targets["topic"], logits)
        assert not isinstance(job.plan.rule, StatesAtShares)
        assert job.plan.target_share == 0.7, "as the last student mixes them"
    assert not (tmp_path / "students").exists()


def test_a_whole_students_loss_is_that_of_each_reward_row(work: Callable[..., Selecting], tmp_path: Path) -> None:
    """Catches losses of the rows that it was trained on, a mean instead of rows, and one student's for all."""
    one = work(ENOUGH)
    (mask,) = reward_folds(one.data)
    place = selecting._student(tmp_path / "one", one, ~mask, np.arange(len(one.candidates.texts)) < 10)
    found = selecting._losses(place, one, mask)
    rows = one.data.splits[TRAIN].select(mask)
    model, tokenizer = load_with_tokenizer(place)
    logits = predict_logits(model, tokenise(tokenizer, rows.texts, 32), "topic", pad_id=tokenizer.pad_token_id)
    labels = np.asarray(rows.labels)
    wanted = -torch.from_numpy(logits).log_softmax(dim=1)[torch.arange(len(rows)), labels]
    assert len(found) == mask.sum()
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)
    other = selecting._student(tmp_path / "other", one, ~mask, np.arange(len(one.candidates.texts)) >= 10)
    assert not np.allclose(selecting._losses(other, one, mask), found)


def test_a_whole_student_may_read_no_candidate_at_all(work: Callable[..., Selecting], tmp_path: Path) -> None:
    """Catches a share whose texts were all made from the rows that judge, and a training that expects some."""
    one = work(ENOUGH)
    (mask,) = reward_folds(one.data)
    none = np.zeros(len(one.candidates.texts), dtype=bool)
    with_none, alone = (selecting._student(tmp_path / str(kept is None), one, ~mask, kept) for kept in (none, None))
    np.testing.assert_allclose(selecting._losses(with_none, one, mask), selecting._losses(alone, one, mask), rtol=1e-5)


def _all_differ(weights: Sequence[Tensor]) -> None:
    """The states of one student, and the last ones of all students, are states of their own."""
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(weights, 2))


def test_an_interrupted_selection_ends_as_if_nothing_had_happened(
    work: Callable[..., Selecting], seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a student that is trained anew, states of before the kill that are lost, and draws that have moved."""
    one, after = work(ENOUGH, checkpoint_seconds=1e-6), StatesAtShares.after_step
    whole = results(selected(one, tmp_path / "whole"))
    seen.steps.clear()

    def in_training(self: StatesAtShares, model: nn.Module, step: int) -> None:
        if step == 4:
            raise Killed
        after(self, model, step)

    def before_episodes(*_: Any, **__: Any) -> None:
        raise Killed

    for place, name, death in (
        (StatesAtShares, "after_step", in_training),
        (selecting, "learn_selector", before_episodes),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, death)
            with pytest.raises(Killed):
                selected(one, tmp_path / "killed")
    assert seen.steps == [1, 2, 3, 4, 5]
    assert results(selected(one, tmp_path / "killed")) == whole
    assert seen.steps == [1, 2, 3, 4, 5], "the student was there"
