"""Rewards by the whole student, against updates written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from compressor.data.splits import ADDED, TRAIN, Split, TaskData
from compressor.distillation.plan import build_plan
from compressor.distillation.presets import parse_method
from compressor.models.checkpoint import load_checkpoint, save_checkpoint
from compressor.models.initialise import pretrained_model
from compressor.pipeline.full_updates import UPDATES, FullUpdates, StoredState
from compressor.training_settings import TrainingSettings

SETTINGS = TrainingSettings(learning_rate=1e-2)
NUM_CANDIDATES, PROGRESS, GAMMA = 6, 0.4, 0.5


@pytest.fixture
def folder(
    tmp_path: Path, checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, toy_data: TaskData
) -> Path:
    """A student of the toy task."""
    save_checkpoint(tmp_path / "state", pretrained_model(str(checkpoint()), [toy_data.task], seed=0), tokenizer)
    return tmp_path / "state"


def updates(folder: Path, data: TaskData, method: str, *, gamma: float = GAMMA) -> tuple[FullUpdates, np.ndarray]:
    """Full updates of one stored state, and the teacher's logits over train rows and candidates."""
    train = data.splits[TRAIN]
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(len(train) + NUM_CANDIDATES, 3)).astype(np.float32)
    added = Split(data.splits["validation"].texts[:NUM_CANDIDATES])

    def rows_of(mask: np.ndarray) -> TaskData:
        return replace(data, splits={TRAIN: train.select(mask), ADDED: added})

    is_reward = np.arange(len(train)) % 4 == 0
    found = FullUpdates(
        [StoredState(folder, is_reward, PROGRESS)],
        rows_of,
        targets=logits[: len(train)],
        candidate_logits=logits[len(train) :],
        plan=build_plan(parse_method(method), patience=None),
        settings=SETTINGS,
        max_length=32,
        gamma=gamma,
    )
    return found, logits


def by_hand(
    folder: Path,
    data: TaskData,
    tokenizer: PreTrainedTokenizerFast,
    logits: np.ndarray,
    *,
    method: str,
    kept: list[int],
) -> float:
    """Loss on the reward rows after the updates on target rows 0 and 2 of the others, and on the kept candidates."""
    train = data.splits[TRAIN]
    is_reward = np.arange(len(train)) % 4 == 0
    own = np.flatnonzero(~is_reward)[[0, 2]]
    texts = [train.texts[row][0] for row in own] + [data.splits["validation"].texts[row][0] for row in kept]
    teacher = torch.from_numpy(np.concatenate([logits[own], logits[len(train) :][kept]]))
    labels = torch.from_numpy(np.asarray(train.labels)[own])
    model = load_checkpoint(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS.learning_rate)

    def answers(some: list[str]) -> torch.Tensor:
        logits: torch.Tensor = model(**tokenizer(some, padding=True, return_tensors="pt"))["topic"]
        return logits

    for _ in range(UPDATES):
        optimizer.zero_grad()
        found = answers(texts)
        if method == "kd":
            soft = functional.softmax(teacher / 2, dim=1)
            each = 4 * (soft * (soft.log() - functional.log_softmax(found / 2, dim=1))).sum(dim=1)
            own_loss = 0.7 * each[:2].sum() + 0.3 * functional.cross_entropy(found[:2], labels, reduction="sum")
            added_loss = 0.7 * each[2:].sum()
        else:
            soft, gold = functional.softmax(teacher, dim=1), functional.one_hot(labels, 3)
            mixed = torch.cat([PROGRESS * gold + (1 - PROGRESS) * soft[:2], soft[2:]])
            each = -(mixed * functional.log_softmax(found, dim=1)).sum(dim=1)
            own_loss, added_loss = each[:2].sum(), each[2:].sum()
        ((own_loss + GAMMA * added_loss) / len(texts)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.max_grad_norm)
        optimizer.step()
    with torch.no_grad():
        judged = answers([train.texts[row][0] for row in np.flatnonzero(is_reward)])
    return float(functional.cross_entropy(judged, torch.from_numpy(np.asarray(train.labels)[is_reward])))


@pytest.mark.parametrize("method", ["kd", "bam"])
def test_a_full_reward_is_what_a_loop_by_hand_gives(
    method: str, folder: Path, toy_data: TaskData, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Catches a sign, a weight, a share of the annealing, rows or a dropout that the cheap reward does not have."""
    found, logits = updates(folder, toy_data, method)
    kept = [1, 4]
    first = found.reward(0, np.array([0, 2]), np.array(kept))
    alone, both = (by_hand(folder, toy_data, tokenizer, logits, method=method, kept=some) for some in ([], kept))
    assert abs(alone - both) > 1e-3
    assert first == pytest.approx(alone - both, abs=2e-5)
    assert found.reward(0, np.array([0, 2]), np.array(kept)) == first, "nothing of a reward stays"


def test_candidates_that_weigh_nothing_or_are_not_kept_are_worth_nothing(folder: Path, toy_data: TaskData) -> None:
    """Catches a reward for an empty choice."""
    found, _ = updates(folder, toy_data, "kd")
    assert found.reward(0, np.array([0, 2]), np.zeros(0, dtype=np.int64)) == 0.0
