"""Where the texts lie that a student reads beside its own, and how they get behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compressor.data.splits import ADDED, SOURCE, Split, TaskData
from compressor.distillation.augmentation.candidates import Candidates, load_candidates

CANDIDATES_FILE = "candidates.parquet"
KEPT_FILE = "kept.npz"


@dataclass(frozen=True)
class AddedPlace:
    """Where the added texts of one task lie.

    Attributes:
        candidates: folder of the texts.
        selection: folder that says which are kept; None: all.
        selector: whose choice it is, a name in `KEPT_FILE`.
        gold: whether the texts are source rows with labels of their own.
    """

    candidates: Path
    selection: Path | None = None
    selector: str = "learned"
    gold: bool = False

    def everything(self) -> Candidates:
        """The texts that could be kept."""
        return load_candidates(self.candidates / CANDIDATES_FILE)

    def is_kept(self, number: int) -> np.ndarray:
        """Which of so many texts the student reads, bool [texts]."""
        if self.selection is None:
            return np.ones(number, dtype=bool)
        chosen: np.ndarray = np.load(self.selection / KEPT_FILE)[self.selector]
        return chosen

    def kept(self) -> Candidates:
        """The texts that the student reads."""
        candidates = self.everything()
        return candidates.select(self.is_kept(len(candidates)))


def with_added(
    data: Mapping[str, TaskData], targets: Mapping[str, np.ndarray], added: Mapping[str, AddedPlace]
) -> tuple[dict[str, TaskData], dict[str, np.ndarray]]:
    """Tasks and teacher's logits with the added texts behind the task's own.

    Args:
        data: the tasks.
        targets: the teacher's logits over their training texts, where a teacher is read.
        added: per task that gets texts, where they are.
    """
    all_data, all_targets = dict(data), dict(targets)
    for task, place in added.items():
        kept = place.kept()
        if not len(kept):
            continue
        labels = np.asarray(data[task].splits[SOURCE].labels)[kept.start_rows] if place.gold else None
        all_data[task] = replace(data[task], splits={**data[task].splits, ADDED: Split(kept.texts, labels)})
        if task in targets and kept.logits is not None:
            all_targets[task] = np.concatenate([targets[task], kept.logits])
    return all_data, all_targets
