"""From scores to the candidates that are kept: quotas per class, the share, and controls of the same number.

Classes are those of the teacher's predictions, so that a selector cannot win or lose by shifting their balance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressor.distillation.augmentation.selector.episode import HeadTraining, HeadTrials
from compressor.distillation.augmentation.selector.view import View, last_views
from compressor.distillation.targets.term import LossTerm
from serving.manifest import TaskType

SHARES = (0.25, 0.5, 0.75, 1.0)
_BINS = 5
_UPDATES = 300


def teacher_classes(logits: np.ndarray, kind: TaskType) -> np.ndarray:
    """The class of each candidate in the teacher's eyes, int64 [rows].

    Args:
        logits: of the teacher, [rows, outputs].
        kind: classification: the likeliest label. multilabel: the likeliest label, or one class more where the
            teacher gives none. regression: the fifth of the teacher's values that it lies in.
    """
    if kind == "regression":
        edges = np.quantile(logits[:, 0], np.linspace(0.0, 1.0, _BINS + 1)[1:-1]) if len(logits) else np.zeros(0)
        return np.asarray(np.searchsorted(edges, logits[:, 0], side="right"), dtype=np.int64)
    likeliest = np.asarray(np.argmax(logits, axis=1), dtype=np.int64)
    if kind == "multilabel":
        return np.where((logits < 0.0).all(axis=1), logits.shape[1], likeliest)
    return likeliest


def keep_top(scores: np.ndarray, classes: np.ndarray, share: float) -> np.ndarray:
    """The candidates of the highest scores within each class, bool [candidates].

    A class keeps its part of round(share * candidates): rounded down, what is left over going to the largest
    remainders. Of equal scores the first row is kept.

    Args:
        scores: [candidates].
        classes: int64 [candidates].
        share: in [0, 1].
    """
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} candidates have no score")
    kept = np.zeros(len(scores), dtype=bool)
    for name, quota in _quotas(classes, share).items():
        rows = np.flatnonzero(classes == name)
        kept[rows[np.argsort(-scores[rows], kind="stable")[:quota]]] = True
    return kept


def _quotas(classes: np.ndarray, share: float) -> dict[int, int]:
    """How many of each class are kept; of equal remainders the first class has the first."""
    names, counts = np.unique(classes, return_counts=True)
    exact = share * counts
    quotas = np.floor(exact + 1e-9).astype(np.int64)
    left = math.floor(share * len(classes) + 0.5 + 1e-9) - int(quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:left]] += 1
    return {int(name): int(quota) for name, quota in zip(names, quotas, strict=True)}


def random_like(kept: np.ndarray, classes: np.ndarray, seed: int) -> np.ndarray:
    """As many candidates of each class as were kept, drawn at random, bool [candidates]."""
    generator = np.random.default_rng(seed)
    drawn = np.zeros(len(kept), dtype=bool)
    for name in np.unique(classes):
        rows = np.flatnonzero(classes == name)
        drawn[generator.choice(rows, size=int(kept[rows].sum()), replace=False)] = True
    return drawn


@dataclass(frozen=True)
class Gain:
    """What some texts take off the loss of others, over the same reward rows.

    Attributes:
        mean: in the loss's unit.
        error: standard error of the mean.
    """

    mean: float
    error: float

    @classmethod
    def of(cls, losses: np.ndarray, others: np.ndarray) -> Gain:
        """Args: losses, others: of each reward row, at least two of them, float [reward rows]."""
        gains = others - losses
        return cls(float(gains.mean()), float(np.std(gains, ddof=1)) / math.sqrt(len(gains)))

    @property
    def is_clear(self) -> bool:
        """Whether the mean is more than its standard error.

        Ours, after the one-standard-error rule of Breiman et al. (1984), Classification and Regression Trees, section
        3.4.3: on few rows the least of several losses is mostly chance.
        """
        return self.mean > self.error


def choose_share(
    views: Sequence[View],
    scores: np.ndarray,
    classes: np.ndarray,
    terms: Sequence[LossTerm],
    *,
    gamma: float,
    shares: Sequence[float] = SHARES,
) -> tuple[float, list[dict[str, float]]]:
    """The share of candidates that a head would keep: all, unless the reward rows say clearly that fewer do better.

    For each share the head of every fold's last stored student is trained on all target rows and the kept
    candidates, by 300 gradient steps on all of them. The share of the least loss is taken where its gain over the
    largest share is clear, else the largest is.

    Args:
        views: stored students, with the same candidates, and two reward rows at least among them.
        scores: [candidates].
        classes: of the candidates, int64 [candidates].
        terms: of the student's loss.
        gamma: what an added row weighs.
        shares: to choose from.

    Returns:
        The share; and per share, in rising order, `share`, number `kept`, mean `loss` over the folds, and against the
        largest share the mean `gain` over the reward rows of all folds and its standard `error`.

    Raises:
        UserError: a loss is no number.
    """
    training = HeadTraining(tuple(terms), gamma, _UPDATES)
    trials = [HeadTrials(views[view], training) for view in last_views(views)]
    rising = sorted(shares)
    chosen = [torch.from_numpy(keep_top(scores, classes, share)) for share in rising]
    losses = [[_losses(trial, kept) for trial in trials] for kept in chosen]
    gains = [Gain.of(np.concatenate(folds), np.concatenate(losses[-1])) for folds in losses]
    means = [float(np.mean([fold.mean() for fold in folds])) for folds in losses]
    found: list[dict[str, float]] = [
        {"share": share, "kept": int(kept.sum()), "loss": mean, "gain": gain.mean, "error": gain.error}
        for share, kept, mean, gain in zip(rising, chosen, means, gains, strict=True)
    ]
    best = int(np.argmin(means))
    return rising[best if gains[best].is_clear else -1], found


def _losses(trial: HeadTrials, kept: Tensor) -> np.ndarray:
    """Of each reward row, with all target rows and those kept candidates that may train this view."""
    everything = torch.arange(len(trial.view.target))
    return trial.losses_after(everything, torch.nonzero(kept & trial.view.may_train).flatten()).double().numpy()
