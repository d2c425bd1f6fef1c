"""Taking a missing validation or test split out of train, the same one every time.

Rows that share a text stay together, so that nothing learned by heart is asked again; of pairs, rows that
share either side. The carved rows follow the labels' proportions as far as whole groups allow, and every
label keeps at least one group in train. The seed is a constant: runs of any training seed are judged on the
same rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from compressor.data.leakage import normalise
from compressor.data.splits import Split
from serving.errors import UserError
from serving.manifest import TaskType

CARVING_SEED = 20_240_229
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
_BINS = 10


def group_by_text(texts: Sequence[tuple[str, ...]]) -> np.ndarray:
    """The group of every row, int64 [rows], from 0: rows that share a normalised text, directly or not."""
    num_sides = len(texts[0])
    sides = _numbered([normalise(text) for row in texts for text in row]).reshape(-1, num_sides)
    if num_sides == 1:
        return sides.ravel()
    links = coo_array((np.ones(len(sides)), (sides[:, 0], sides[:, 1])), shape=(sides.max() + 1,) * 2)
    _, component = connected_components(links, directed=False)
    return _numbered(component[sides[:, 0]])


def _numbered(values: Sequence[str] | np.ndarray) -> np.ndarray:
    """Equal values as equal numbers, counted from 0 in order of appearance."""
    numbers, _ = pd.factorize(np.asarray(values, dtype=object))
    return np.asarray(numbers, dtype=np.int64)


def strata_of(split: Split, task_type: TaskType) -> np.ndarray:
    """The kind of every row whose proportion a carved split keeps, int64 [rows].

    The class; of several labels the rarest; of a number its tenth of the range of ranks.
    """
    labels = np.asarray(split.labels)
    if task_type == "classification":
        return labels
    if task_type == "regression":
        cuts = np.quantile(labels, np.linspace(0, 1, _BINS + 1)[1:-1])
        return np.asarray(np.digitize(labels, cuts))
    rarity = np.argsort(labels.sum(axis=0), kind="stable")
    none_present = labels.sum(axis=1) == 0
    rarest = rarity[np.argmax(labels[:, rarity], axis=1)]
    return np.asarray(np.where(none_present, -1, rarest))


def carve(
    groups: np.ndarray,
    strata: Sequence[np.ndarray],
    share: float,
    *,
    kept: np.ndarray,
    seed: int = CARVING_SEED,
) -> np.ndarray:
    """Which rows go into the carved split, bool [rows].

    The movable groups, ordered by stratum and at random within, are picked at even steps: every stratum then
    gives its share to within one group.

    Args:
        groups: int64 [rows], from `group_by_text`.
        strata: one or more int64 [rows], the most important first (tasks that share the rows have one each).
        share: of the rows, in (0, 1).
        kept: int64, groups that must stay in train; see `groups_to_keep`.
        seed: of the order within strata.

    Raises:
        UserError: too few different texts.
    """
    sizes = np.bincount(groups)
    first_rows = np.unique(groups, return_index=True)[1]
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    order = np.lexsort((shuffled, *(stratum[first_rows] for stratum in reversed(strata))))
    wanted = share * len(groups)
    is_movable = sizes <= max(1, wanted / 2)  # a larger group would decide the split alone
    is_movable[kept] = False
    order = order[is_movable[order]]
    fraction = wanted / max(1, sizes[order].sum())
    steps = np.floor(np.arange(len(order) + 1) * fraction + 0.5)
    chosen = order[np.diff(steps) > 0]
    if fraction > 1 or not len(chosen):
        raise UserError(
            f"{len(groups)} rows with {len(sizes)} different texts are too few to take {share:.0%} of "
            "them for evaluation. Give files for validation and test, or more rows."
        )
    return np.isin(groups, chosen)


def groups_to_keep(groups: np.ndarray, split: Split, task_type: TaskType, *, seed: int) -> np.ndarray:
    """One group per label, drawn at random from its rows; int64 [labels], empty for regression."""
    order = np.random.default_rng(seed).permutation(len(groups))
    labels = np.asarray(split.labels)[order]
    if task_type == "regression":
        return np.zeros(0, dtype=np.int64)
    is_classes = task_type == "classification"
    first = np.unique(labels, return_index=True)[1] if is_classes else np.argmax(labels > 0, axis=0)
    return groups[order[first]]
