"""Which of a task's own labelled rows judge added texts, held back from what they judge."""

from __future__ import annotations

import numpy as np

from compressor.data.folds import fold_numbers
from compressor.data.leakage import text_keys
from compressor.data.splits import TRAIN, TaskData
from serving.errors import UserError

REWARD_SHARE = 0.25
LEAST_REWARD_ROWS = 20
LEAST_TEXTS = 8
FEW_ROWS_FOLDS = 4


def reward_folds(data: TaskData) -> list[np.ndarray]:
    """Masks of the reward rows, bool [train rows]; every label has its share of them as far as whole texts allow.

    From 40 rows on one mask: a quarter of the rows, of few rows about 20. Below, four masks that hold every row once,
    each judged by a student that was trained on the other three quarters.

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
    is_whole = len(train) >= 2 * LEAST_REWARD_ROWS and num_texts >= 2 * FEW_ROWS_FOLDS
    most = round(1 / REWARD_SHARE)
    folds = min(most, len(train) // LEAST_REWARD_ROWS) if is_whole else FEW_ROWS_FOLDS
    numbers = fold_numbers({data.task.name: data}, folds)[data.task.name][: len(train)]
    return [numbers == fold for fold in range(1 if is_whole else folds)]
