"""Cutting training rows into parts, so that every row can be answered by a teacher that has not seen it.

Rows that share a text stay together, of all the tasks that one teacher is trained on: a teacher that has read a text
under one task knows it under the others. Parts hold like shares of every label as far as whole groups allow. Which row
is in which part depends on the rows and on the number of parts alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from compressor.data.carving import CARVING_SEED, group_by_text, strata_of
from compressor.data.splits import TRAIN, TaskData, training_texts
from serving.errors import UserError

NO_FOLD = -1


def fold_numbers(data: Mapping[str, TaskData], folds: int) -> dict[str, np.ndarray]:
    """The part of every training row.

    Args:
        data: the tasks of one teacher, all single texts or all pairs.
        folds: number of parts, at least 2.

    Returns:
        Per task int64 [rows of `training_texts`], from 0 to folds - 1; `NO_FOLD` for a text without label that
        shares its text with no labelled row.

    Raises:
        UserError: fewer different texts than parts.
    """
    texts = [text for task in data.values() for text in training_texts(task)]
    groups = group_by_text(texts)
    strata = np.concatenate([_strata(task, place) for place, task in enumerate(data.values())])
    is_labelled = strata[:, 1] != NO_FOLD
    fold_of_group = np.full(groups.max() + 1, NO_FOLD, dtype=np.int64)
    labelled, first_row, sizes = np.unique(groups[is_labelled], return_index=True, return_counts=True)
    if len(labelled) < folds:
        raise UserError(
            f"teacher.folds is {folds}, but the rows of {', '.join(data)} have {len(labelled)} different texts. "
            f"Set it to at most {len(labelled)}, or leave it out."
        )
    _, kinds = np.unique(strata[is_labelled][first_row], axis=0, return_inverse=True)
    fold_of_group[labelled] = _dealt(sizes, kinds, folds)
    ends = np.cumsum([len(training_texts(task)) for task in data.values()])
    return dict(zip(data, np.split(fold_of_group[groups], ends[:-1]), strict=True))


def _strata(task: TaskData, place: int) -> np.ndarray:
    """Task and kind of every training row, int64 [rows, 2], kinds from 0; `NO_FOLD` for a row without label."""
    _, kinds = np.unique(strata_of(task.splits[TRAIN], task.task.type), return_inverse=True)
    num_unlabelled = len(training_texts(task)) - len(kinds)
    kinds = np.concatenate([kinds, np.full(num_unlabelled, NO_FOLD)])
    return np.stack([np.full(len(kinds), place), kinds], axis=1)


def _dealt(sizes: np.ndarray, kinds: np.ndarray, folds: int) -> np.ndarray:
    """The part of every group, int64 [groups].

    The largest first, each to the part that has the fewest rows of its kind, of those the one with the fewest rows.
    """
    of_kind = np.zeros((kinds.max() + 1, folds), dtype=np.int64)
    total = np.zeros(folds, dtype=np.int64)
    found = np.empty(len(sizes), dtype=np.int64)
    shuffled = np.random.default_rng(CARVING_SEED).permutation(len(sizes))
    for group in np.lexsort((shuffled, -sizes)):
        fold = np.lexsort((total, of_kind[kinds[group]]))[0]
        found[group] = fold
        of_kind[kinds[group], fold] += sizes[group]
        total[fold] += sizes[group]
    return found


def without_fold(data: TaskData, numbers: np.ndarray, fold: int) -> TaskData:
    """A task without the training rows of one part, and without texts that have no label.

    Args:
        data: the task.
        numbers: int64 [rows of `training_texts`], from `fold_numbers`.
        fold: the part that is left out.
    """
    train = data.splits[TRAIN]
    kept = train.select(numbers[: len(train)] != fold)
    labelled = data.without_unlabelled()
    return replace(labelled, splits={**labelled.splits, TRAIN: kept})


def labels_in_one_fold(data: TaskData, numbers: np.ndarray) -> list[str]:
    """Labels all of whose rows are in one part: the teacher that answers these rows has never seen the label.

    Args:
        data: the task; a regression has no labels.
        numbers: int64 [rows of `training_texts`], from `fold_numbers`.
    """
    task, labels = data.task, np.asarray(data.splits[TRAIN].labels)
    folds = numbers[: len(labels)]
    places = range(len(task.labels))
    has_label = [labels == place if task.type == "classification" else labels[:, place] > 0 for place in places]
    return [name for name, rows in zip(task.labels, has_label, strict=True) if len(np.unique(folds[rows])) == 1]
