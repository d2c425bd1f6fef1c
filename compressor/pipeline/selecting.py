"""The selection stage: students of the target rows alone, and a policy that learns which candidates help them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from compressor.data.batches import tokenise
from compressor.data.splits import TRAIN
from compressor.distillation.augmentation.reward_rows import reward_folds
from compressor.distillation.augmentation.selector.choose import (
    SHARES,
    Gain,
    choose_share,
    keep_top,
    random_like,
    teacher_classes,
)
from compressor.distillation.augmentation.selector.learn import Learned, learn_selector
from compressor.distillation.augmentation.selector.state import CandidateFacts
from compressor.distillation.augmentation.selector.view import Rows, View
from compressor.distillation.training import HISTORY_FILE, TrainingJob, train
from compressor.distillation.weights.states import state_name
from compressor.models.checkpoint import load_checkpoint
from compressor.models.predict import head_inputs, last_layer, predict_logits
from compressor.models.warm_start import is_warm_start, take_heads
from compressor.pipeline.added import KEPT_FILE
from compressor.pipeline.augmenting import Clock
from compressor.pipeline.full_updates import FullUpdates, StoredState
from compressor.pipeline.learning import initial_student
from compressor.pipeline.selection_input import STATES, Selecting
from compressor.pipeline.stages import write_json
from compressor.progress import progress_bar
from compressor.tasks.registry import TASKS, gold_losses

SELECTION_FILE = "selection.json"
_TRAININGS = "students"


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


def _student(folder: Path, work: Selecting, rows: np.ndarray, kept: np.ndarray | None = None) -> Path:
    """A student of the rows that judge nothing; what an interrupted call has trained is not trained again.

    Args:
        folder: of the student.
        work: what the selection reads.
        rows: bool [train rows].
        kept: the candidates that it reads too, bool [candidates]; None: none, and its states are kept.
    """
    if (folder / HISTORY_FILE).is_file():
        return folder
    recipe, task = work.recipe, work.data.task.name
    read, targets, plan = work.own_rows(rows), work.targets[rows], work.plan
    if kept is not None:
        read, plan = work.with_candidates(rows, kept), work.plan_with_candidates
        targets = np.concatenate([targets, np.asarray(work.candidates.logits)[kept]])
    data = {task: read}
    model = initial_student(data, recipe, work.teacher)
    if is_warm_start(recipe.student.model):
        take_heads(model, Path(recipe.student_model()))
    job = TrainingJob(
        model=model,
        tokenizer=work.tokenizer,
        data=data,
        targets={task: targets},
        plan=plan,
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
    """Keep a share of the candidates by the reward rows, and as many for both controls.

    A head on stored features cannot see what texts teach the rest of the student, and was found to prefer few of them.
    So it may propose a smaller share, which whole students then have to confirm.
    """
    classes = teacher_classes(np.asarray(work.candidates.logits), work.data.task.type)
    shares = SHARES if work.knobs.share is None else (work.knobs.share,)
    share, tried = choose_share(views, learned.scores, classes, work.plan.terms, gamma=work.knobs.weight, shares=shares)
    kept = keep_top(learned.scores, classes, share)
    confirmation = None
    if share < tried[-1]["share"]:
        gain = _gain_of_whole_students(folder / _TRAININGS, work, kept, masks)
        confirmation = {"share": share, "gain": gain.mean, "error": gain.error}
        if not gain.is_clear:
            share = tried[-1]["share"]
            kept = keep_top(learned.scores, classes, share)
    np.savez(
        folder / KEPT_FILE,
        learned=kept,
        random=random_like(kept, classes, seed=work.recipe.student_order_seed),
        filter=keep_top(learned.filter_scores, classes, share),
    )
    clock.lap("choice")
    rows = {"folds": len(masks), "reward_rows": int(np.sum(masks))}
    facts = {"share": share, "shares": tried, "confirmation": confirmation, **rows, "seconds": clock.seconds}
    write_json(folder / SELECTION_FILE, {**facts, **learned.facts()})


def _gain_of_whole_students(folder: Path, work: Selecting, kept: np.ndarray, masks: list[np.ndarray]) -> Gain:
    """What students that read some candidates have over students that read all of them, on the reward rows.

    Neither reads what was made from a row that judges it.
    """
    losses = []
    for name, some in (("part", kept), ("everything", np.ones_like(kept))):
        places = [
            _student(folder / f"{name}-{number}", work, ~mask, some & ~work.made_from(mask))
            for number, mask in enumerate(masks)
        ]
        losses.append(np.concatenate([_losses(place, work, mask) for place, mask in zip(places, masks, strict=True)]))
    return Gain.of(*losses)


def _losses(place: Path, work: Selecting, rows: np.ndarray) -> np.ndarray:
    """A student's hard loss on each of some train rows (bool [train rows]), float64 [rows]."""
    spec, judged = work.data.task, work.data.splits[TRAIN].select(rows)
    tokens = tokenise(work.tokenizer, judged.texts, work.recipe.max_length)
    logits = predict_logits(load_checkpoint(place), tokens, spec.name, pad_id=int(work.tokenizer.pad_token_id))
    return gold_losses(torch.from_numpy(logits).double(), np.asarray(judged.labels), spec).numpy()
