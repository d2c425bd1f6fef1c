"""Which of a task's own labelled rows judge added texts, held back from what they judge."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from compressor.data.folds import fold_numbers
from compressor.data.leakage import text_keys
from compressor.data.splits import TRAIN, TaskData
from serving.errors import UserError

REWARD_SHARE = Fraction(1, 4)
LEAST_REWARD_ROWS = 20
LEAST_TEXTS = 8
FEW_ROWS_FOLDS = 4
MOST_PARTS = 10


def reward_folds(data: TaskData) -> list[np.ndarray]:
    """Masks of the reward rows, bool [train rows]; every label has its share of them as far as whole texts allow.

    From 40 rows on one mask: a quarter of the rows, at least 20. Below, four masks that hold every row once, each
    judged by a student that was trained on the other three quarters.

    Raises:
        UserError: fewer than 8 different texts.
    """
    train = data.splits[TRAIN]
    num_texts = len(set(text_keys(train.texts)))
    if num_texts < LEAST_TEXTS:
        raise UserError(
            f"l2a holds back training rows as its judge, and task '{data.task.name}' has {num_texts} different texts; "
            f"it needs at least {LEAST_TEXTS}. Give more rows, or use refill, which holds none back."
        )
    if len(train) < 2 * LEAST_REWARD_ROWS:
        numbers = _fold_numbers(data, FEW_ROWS_FOLDS)
        return [numbers == fold for fold in range(FEW_ROWS_FOLDS)]
    held = _parts(max(Fraction(LEAST_REWARD_ROWS, len(train)), REWARD_SHARE), min(MOST_PARTS, num_texts))
    return [_fold_numbers(data, held.denominator) < held.numerator]


def _fold_numbers(data: TaskData, folds: int) -> np.ndarray:
    """Of the labelled rows, int64 [train rows]."""
    return fold_numbers({data.task.name: data}, folds)[data.task.name][: len(data.splits[TRAIN])]


def _parts(share: Fraction, most: int) -> Fraction:
    """The least share that is so many of at most `most` equal parts, and not below the wanted one."""
    return min(Fraction(math.ceil(share * parts), parts) for parts in range(2, most + 1))
