"""Which of a task's own labelled rows judge added texts, held back from what they judge."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from compressor.data.carving import group_by_text
from compressor.data.folds import fold_numbers
from compressor.data.splits import TRAIN, TaskData
from serving.errors import UserError

REWARD_SHARE = Fraction(1, 4)
LEAST_REWARD_ROWS = 20
LEAST_GROUPS = 8
FEW_ROWS_FOLDS = 4
MOST_PARTS = 10


def reward_folds(data: TaskData) -> list[np.ndarray]:
    """Masks of the reward rows, bool [train rows]; every label has its share of them as far as whole texts allow.

    From 40 rows on one mask: a quarter of the rows, at least 20. Below, four masks that hold every row once, each
    judged by a student that was trained on the other three quarters. Rows that share a text stay together; of pairs
    those that share a side, directly or not.

    Raises:
        UserError: fewer than 8 such groups of rows, or groups so large that no 20 rows to a half can be held back.
    """
    labelled = data.without_unlabelled()
    train = labelled.splits[TRAIN]
    num_groups = len(np.unique(group_by_text(train.texts)))
    if num_groups < LEAST_GROUPS:
        kind = "groups of pairs without a text in common" if data.is_pair else "different texts"
        raise UserError(
            f"l2a holds back training rows as its judge, and task '{data.task.name}' has {num_groups} {kind}; "
            f"it needs at least {LEAST_GROUPS}. Give more rows, or use refill, which holds none back."
        )
    if len(train) < 2 * LEAST_REWARD_ROWS:
        numbers = _fold_numbers(labelled, FEW_ROWS_FOLDS)
        return [numbers == fold for fold in range(FEW_ROWS_FOLDS)]
    share = max(Fraction(LEAST_REWARD_ROWS, len(train)), REWARD_SHARE)
    held = _parts(share, min(MOST_PARTS, num_groups))
    mask = _held_back(_fold_numbers(labelled, held.denominator), held, math.ceil(share * len(train)))
    if mask is None:
        raise UserError(
            f"l2a holds back {LEAST_REWARD_ROWS} training rows to a half of them as its judge, and the rows of task "
            f"'{data.task.name}' that share a text are too many to be kept together so. Give rows of other texts, or "
            "use refill, which holds none back."
        )
    return [mask]


def _held_back(numbers: np.ndarray, held: Fraction, wanted: int) -> np.ndarray | None:
    """The first parts, bool [rows]; where a large group makes them too many rows, the smallest that come nearest."""
    first = numbers < held.numerator
    if first.sum() <= wanted + held.numerator:
        return first
    sizes = np.bincount(numbers, minlength=held.denominator)
    smallest = np.argsort(sizes, kind="stable")
    taken = np.cumsum(sizes[smallest])
    possible = np.flatnonzero((taken >= LEAST_REWARD_ROWS) & (taken <= len(numbers) / 2))
    if not len(possible):
        return None
    nearest = possible[np.argmin(np.abs(taken[possible] - wanted))]
    return np.isin(numbers, smallest[: nearest + 1])


def _fold_numbers(data: TaskData, folds: int) -> np.ndarray:
    """Of the labelled rows, int64 [train rows]."""
    return fold_numbers({data.task.name: data}, folds)[data.task.name]


def _parts(share: Fraction, most: int) -> Fraction:
    """The least share that is so many of at most `most` equal parts, and not below the wanted one."""
    return min(Fraction(math.ceil(share * parts), parts) for parts in range(2, most + 1))
