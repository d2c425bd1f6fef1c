"""The selection stage: students of the target rows alone, and a policy that learns which candidates help them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from compressor.data.batches import Tokens, tokenise
from compressor.data.splits import ADDED, TRAIN, UNLABELLED, Split, TaskData
from compressor.distillation.augmentation.candidates import Candidates, load_candidates
from compressor.distillation.augmentation.knobs import L2aKnobs
from compressor.distillation.augmentation.reward_rows import reward_folds
from compressor.distillation.augmentation.selector.choose import (
    SHARES,
    choose_share,
    keep_top,
    random_like,
    teacher_classes,
)
from compressor.distillation.augmentation.selector.learn import Learned, learn_selector
from compressor.distillation.augmentation.selector.state import CandidateFacts
from compressor.distillation.augmentation.selector.view import Rows, View
from compressor.distillation.plan import Plan, build_plan
from compressor.distillation.presets import Knobs
from compressor.distillation.training import HISTORY_FILE, TrainingJob, train
from compressor.distillation.weights.states import StatesAtShares, state_name
from compressor.models.checkpoint import load_checkpoint
from compressor.models.initialise import load_tokenizer
from compressor.models.predict import head_inputs, last_layer
from compressor.models.warm_start import is_warm_start, take_heads
from compressor.pipeline.added import CANDIDATES_FILE, KEPT_FILE
from compressor.pipeline.augmenting import Clock
from compressor.pipeline.full_updates import FullUpdates, StoredState
from compressor.pipeline.learning import TARGETS_FILE, initial_student
from compressor.pipeline.stages import write_json
from compressor.progress import progress_bar
from compressor.recipe import Recipe
from compressor.tasks.registry import TASKS

SELECTION_FILE = "selection.json"
STATES = (0.1, 0.4, 0.8)
_TRAININGS = "students"


@dataclass(frozen=True)
class Selecting:
    """What a selection reads.

    Attributes:
        data: the task.
        targets: the teacher's logits over its training texts.
        candidates: with the teacher's logits.
        recipe: student, training and tokens per text.
        supervision: kd or bam with knobs.
        knobs: of l2a.
        teacher: whose layers the student starts with, or None for the pretrained checkpoint's.
    """

    data: TaskData
    targets: np.ndarray
    candidates: Candidates
    recipe: Recipe
    supervision: Mapping[str, Knobs]
    knobs: L2aKnobs
    teacher: Path | None

    @classmethod
    def read(
        cls,
        data: TaskData,
        folders: Mapping[str, Path],
        recipe: Recipe,
        *,
        supervision: Mapping[str, Knobs],
        knobs: L2aKnobs,
    ) -> Selecting:
        """Args: folders: `candidates`, `targets` and, where the student starts from it, `teacher`."""
        targets = np.load(folders["targets"] / TARGETS_FILE)[: len(data.splits[TRAIN])]
        candidates = load_candidates(folders["candidates"] / CANDIDATES_FILE)
        return cls(data, targets, candidates, recipe, supervision, knobs, folders.get("teacher"))

    @property
    def plan(self) -> Plan:
        """How the students are trained whose states the policy sees."""
        return replace(build_plan(self.supervision, patience=None), rule=StatesAtShares(STATES))

    def own_rows(self, rows: np.ndarray) -> TaskData:
        """The task with some of its training rows, and nothing else to train on."""
        kept = {name: split for name, split in self.data.splits.items() if name != UNLABELLED}
        return replace(self.data, splits={**kept, TRAIN: self.data.splits[TRAIN].select(rows)})

    def with_candidates(self, rows: np.ndarray) -> TaskData:
        """Some of its training rows, and behind them the candidates."""
        data = self.own_rows(rows)
        return replace(data, splits={**data.splits, ADDED: Split(self.candidates.texts)})

    def made_from(self, rows: np.ndarray) -> np.ndarray:
        """Which candidates were made from some of the training rows, bool [candidates].

        Args:
            rows: bool [train rows].
        """
        is_own, starts = ~self.candidates.is_source, self.candidates.start_rows
        return np.asarray(is_own & rows[np.where(is_own, starts, 0)])

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The student's."""
        return load_tokenizer(self.recipe.student_model())

    @cached_property
    def tokens(self) -> tuple[Tokens, Tokens]:
        """The train rows and the candidates as every student reads them."""
        texts = (self.data.splits[TRAIN].texts, self.candidates.texts)
        rows, candidates = (tokenise(self.tokenizer, some, self.recipe.max_length) for some in texts)
        return rows, candidates


def select_candidates(folder: Path, work: Selecting) -> None:
    """Learn which candidates help, and write the choice, that of both controls, and what was learned."""
    clock = Clock()
    masks = reward_folds(work.data)
    places = [_student(folder / _TRAININGS / f"fold-{number}", work, ~mask) for number, mask in enumerate(masks)]
    clock.lap("student")
    views = [view for place, mask in zip(places, masks, strict=True) for view in _views(place, work, mask)]
    clock.lap("features")
    stored = [
        StoredState(place / state_name(share), mask, share)
        for place, mask in zip(places, masks, strict=True)
        for share in STATES
    ]
    updates = FullUpdates(
        stored,
        work.with_candidates,
        targets=work.targets,
        candidate_logits=np.asarray(work.candidates.logits),
        plan=work.plan,
        settings=work.recipe.training,
        max_length=work.recipe.max_length,
        gamma=work.knobs.weight,
    )
    facts = CandidateFacts(work.candidates.edit_ratios, work.candidates.domain_scores)
    with progress_bar("selector", work.knobs.episodes) as bar:
        learned = learn_selector(
            views,
            facts,
            work.knobs,
            work.plan.terms,
            gamma=work.knobs.weight,
            batch_size=work.recipe.training.batch_size,
            seed=work.recipe.student_order_seed,
            full_reward=updates.reward,
            advance=bar.update,
        )
    clock.lap("selector")
    _choose(folder, work, views, learned, masks=masks, clock=clock)
    shutil.rmtree(folder / _TRAININGS)


def _student(folder: Path, work: Selecting, rows: np.ndarray) -> Path:
    """A student of the rows that judge nothing; what an interrupted call has trained is not trained again."""
    if (folder / HISTORY_FILE).is_file():
        return folder
    recipe = work.recipe
    data = {work.data.task.name: work.own_rows(rows)}
    model = initial_student(data, recipe, work.teacher)
    if is_warm_start(recipe.student.model):
        take_heads(model, Path(recipe.student_model()))
    job = TrainingJob(
        model=model,
        tokenizer=work.tokenizer,
        data=data,
        targets={work.data.task.name: work.targets[rows]},
        plan=work.plan,
        settings=recipe.training,
        max_length=recipe.max_length,
        seed=recipe.student_order_seed,
        label="student for the selector",
    )
    folder.mkdir(parents=True, exist_ok=True)
    train(job, folder)
    return folder


def _views(place: Path, work: Selecting, reward: np.ndarray) -> list[View]:
    return [_view(place / state_name(share), work, reward, share) for share in STATES]


def _view(folder: Path, work: Selecting, reward: np.ndarray, progress: float) -> View:
    """The head's last layer in one state, and what it is given for every text."""
    model, spec = load_checkpoint(folder), work.data.task
    kind, layer = TASKS[spec.type], last_layer(model, spec.name)
    rows, candidates = (
        torch.from_numpy(head_inputs(model, tokens, spec.name, pad_id=int(work.tokenizer.pad_token_id)))
        for tokens in work.tokens
    )
    labels = torch.from_numpy(kind.targets(np.asarray(work.data.splits[TRAIN].labels), spec))
    own, judge = torch.from_numpy(~reward), torch.from_numpy(reward)
    return View(
        task=kind,
        weight=layer.weight.detach().clone(),
        bias=_bias(layer),
        target=Rows(rows[own], labels[own], torch.from_numpy(work.targets).float()[own]),
        candidates=Rows(candidates, None, torch.from_numpy(np.asarray(work.candidates.logits)).float()),
        reward=Rows(rows[judge], labels[judge]),
        progress=progress,
        is_judged=torch.from_numpy(work.made_from(reward)),
    )


def _bias(layer: torch.nn.Linear) -> torch.Tensor:
    return torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().clone()


def _choose(
    folder: Path,
    work: Selecting,
    views: list[View],
    learned: Learned,
    *,
    masks: list[np.ndarray],
    clock: Clock,
) -> None:
    """Keep a share of the candidates by the reward rows, and as many for both controls."""
    classes = teacher_classes(np.asarray(work.candidates.logits), work.data.task.type)
    shares = SHARES if work.knobs.share is None else (work.knobs.share,)
    share, tried = choose_share(views, learned.scores, classes, work.plan.terms, gamma=work.knobs.weight, shares=shares)
    kept = keep_top(learned.scores, classes, share)
    np.savez(
        folder / KEPT_FILE,
        learned=kept,
        random=random_like(kept, classes, seed=work.recipe.student_order_seed),
        filter=keep_top(learned.filter_scores, classes, share),
    )
    clock.lap("choice")
    rows = {"folds": len(masks), "reward_rows": int(np.sum(masks))}
    facts = {"share": share, "shares": tried, **rows, "seconds": clock.seconds}
    write_json(folder / SELECTION_FILE, {**facts, **learned.facts()})
