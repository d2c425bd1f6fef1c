"""A labelled subset of the training rows: few labels, drawn in proportion, every label kept.

For questions such as "what does a method give with 100 labels": the seed draws other rows, the same for every
method.
"""

from __future__ import annotations

import numpy as np

from compressor.data.carving import strata_of
from compressor.data.splits import Split
from serving.errors import UserError
from serving.manifest import TaskSpec


def draw_rows(split: Split, task: TaskSpec, number: int, *, seed: int) -> np.ndarray:
    """Which rows are kept, bool [rows].

    Strata are the classes; of several labels the rarest that a row has; of a number its tenth of the ranks. Each
    gets its proportional number of rows to within one, except that every label keeps at least one row.

    Args:
        split: the rows, with labels.
        task: whose rows they are.
        number: of rows to keep, at least 1.
        seed: of the draw.

    Raises:
        UserError: more rows than there are, or fewer than keep every label.
    """
    if number > len(split):
        raise UserError(
            f"tasks.{task.name}.train_rows is {number}, but task '{task.name}' has {len(split)} training rows (after "
            f"evaluation splits are carved and leaks dropped). Set it to at most {len(split)}."
        )
    shuffled = np.random.default_rng(seed).permutation(len(split))
    first = _one_per_label(split, task, shuffled)
    if len(first) > number:
        raise UserError(
            f"tasks.{task.name}.train_rows is {number}, but one row of every label takes {len(first)} rows. "
            f"Set it to at least {len(first)}."
        )
    _, strata = np.unique(strata_of(split, task.type), return_inverse=True)
    kept = np.zeros(len(split), dtype=bool)
    kept[first] = True
    quotas = _quotas(np.bincount(strata), np.bincount(strata[first], minlength=strata.max() + 1), number)
    for stratum, quota in enumerate(quotas):
        rows = shuffled[strata[shuffled] == stratum]
        taken = int(kept[rows].sum())
        kept[rows[~kept[rows]][: quota - taken]] = True
    return kept


def _one_per_label(split: Split, task: TaskSpec, shuffled: np.ndarray) -> np.ndarray:
    """The first row in a random order of every label that no row before has, rarest labels first; int64 [rows]."""
    labels = np.asarray(split.labels)[shuffled]
    if task.type == "regression":
        return np.zeros(0, dtype=np.int64)
    has_label = labels == np.arange(len(task.labels))[:, None] if task.type == "classification" else labels.T > 0
    chosen: list[int] = []
    for label in np.argsort(has_label.sum(axis=1), kind="stable"):
        if not has_label[label][chosen].any() and has_label[label].any():
            chosen.append(int(np.argmax(has_label[label])))
    return np.asarray(shuffled[np.array(chosen, dtype=np.int64)])


def _quotas(sizes: np.ndarray, least: np.ndarray, number: int) -> np.ndarray:
    """Rows per stratum: proportional, at least `least`, at most `sizes`, `number` in all."""
    ideal = number * sizes / sizes.sum()
    quotas: np.ndarray = np.maximum(np.floor(ideal).astype(np.int64), least)
    while quotas.sum() < number:
        quotas[np.argmax(np.where(quotas < sizes, ideal - quotas, -np.inf))] += 1
    while quotas.sum() > number:
        quotas[np.argmax(np.where(quotas > least, quotas - ideal, -np.inf))] -= 1
    return quotas
