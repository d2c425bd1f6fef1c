"""The targets stage: what the teachers of one task say about its training texts, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from compressor.data.folds import NO_FOLD, labels_in_one_fold
from compressor.data.splits import TaskData, training_texts
from compressor.evaluation.ensembles import vote
from compressor.models.teacher import teacher_logits
from compressor.pipeline.learning import PREDICTIONS_FILE, TARGETS_FILE
from compressor.progress import announce


@dataclass(frozen=True)
class Asked:
    """The teachers of one task.

    Attributes:
        members: folders of those that have read all rows; several answer together.
        folds: per part of the rows, the folders of those that have not read it.
        numbers: the part of every row, int64 [rows of `training_texts`]; None without parts.
    """

    members: Sequence[Path]
    folds: Sequence[Sequence[Path]] = field(default=())
    numbers: np.ndarray | None = None


def compute_targets(folder: Path, data: TaskData, asked: Asked, max_length: int) -> None:
    """Write the teacher's logits over the training texts, in the data's label order.

    A row of a part is answered by the teachers that have not read it, every other text by those that read all rows.
    """
    if (asked.members[0] / PREDICTIONS_FILE).is_file():
        np.save(folder / TARGETS_FILE, np.load(asked.members[0] / "training.npy"))
        return
    texts = training_texts(data)
    numbers = np.full(len(texts), NO_FOLD) if asked.numbers is None else asked.numbers
    logits = np.full((len(texts), data.task.num_outputs), np.nan, dtype=np.float32)
    for number, teachers in ((NO_FOLD, asked.members), *enumerate(asked.folds)):
        rows = np.flatnonzero(numbers == number)
        if len(rows):
            own = [texts[row] for row in rows.tolist()]
            answers = [teacher_logits(teacher, own, data.task, max_length=max_length) for teacher in teachers]
            logits[rows] = vote(answers, data.task.type)
    np.save(folder / TARGETS_FILE, logits)
    if asked.numbers is not None:
        _tell_of_unseen_labels(data, asked.numbers)


def _tell_of_unseen_labels(data: TaskData, numbers: np.ndarray) -> None:
    if unseen := labels_in_one_fold(data, numbers):
        announce(
            f"  {data.task.name}: all rows of {len(unseen)} labels (such as {unseen[0]!r}) share texts and are in one "
            "fold: the teacher that answers them has not seen the label; leave teacher.folds out, or give more rows"
        )
