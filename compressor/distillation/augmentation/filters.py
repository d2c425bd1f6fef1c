"""Which candidates may be learned from: new texts, near their start, of which the teacher is sure."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from compressor.data.leakage import text_keys
from compressor.distillation.augmentation.candidates import Candidates
from serving.answers import probabilities
from serving.manifest import TaskSpec

EVALUATION, OWN, REPEATED = "evaluation", "own", "repeated"


def keep_new(
    candidates: Candidates, *, seen_keys: Collection[str], own_keys: Collection[str]
) -> tuple[np.ndarray, dict[str, int]]:
    """Keep the texts that are in no evaluation split, that the student does not have already, and each once.

    Texts are compared as `text_keys` does: but for case, punctuation and spaces, and in either order of a pair.

    Args:
        candidates: [rows]; of equal texts the first is kept.
        seen_keys: of all evaluation splits.
        own_keys: of the rows that the student trains on.

    Returns:
        Which to keep, bool [rows]; and how many were dropped as `evaluation`, `own` or `repeated`, each row counted
        once, under the first of these that is true of it.
    """
    known: set[str] = set()
    counts = {EVALUATION: 0, OWN: 0, REPEATED: 0}
    is_kept = np.zeros(len(candidates), dtype=bool)
    for row, key in enumerate(text_keys(candidates.texts)):
        if key in seen_keys:
            counts[EVALUATION] += 1
        elif key in own_keys:
            counts[OWN] += 1
        elif key in known:
            counts[REPEATED] += 1
        else:
            is_kept[row] = True
            known.add(key)
    return is_kept, counts


def keep_close(edit_ratios: np.ndarray, limit: float) -> np.ndarray:
    """Keep candidates of which at most this share of words was changed.

    Args:
        edit_ratios: float32 [rows] in [0, 1].
        limit: in [0, 1]; a ratio that equals it is kept.

    Returns:
        bool [rows].
    """
    return np.asarray(edit_ratios <= np.float32(limit))  # three words of ten are 0.3 in the ratios' own precision


def keep_sure(logits: np.ndarray, task: TaskSpec, *, min_confidence: float, min_margin: float) -> np.ndarray:
    """Keep candidates of which the teacher is sure.

    Classification: the probability of its answer, and the distance to the second one. Multilabel: of the label that it
    is least sure of, the probability of its answer, present or absent, and the distance to the other. Of a regression
    every row is kept: a value says nothing of its certainty.

    Args:
        logits: the teacher's, [rows, outputs].
        task: that it answers; its temperature divides the logits.
        min_confidence: least probability, in [0, 1].
        min_margin: least distance, in [0, 1].

    Returns:
        bool [rows].
    """
    if task.type == "regression":
        return np.ones(len(logits), dtype=bool)
    first, second = _two_likeliest(probabilities(logits, task), task)
    return np.asarray((first >= min_confidence) & (first - second >= min_margin))


def _two_likeliest(values: np.ndarray, task: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the teacher's answer and of the next one, each [rows]."""
    if task.type == "multilabel":
        least_sure = np.maximum(values, 1.0 - values).min(axis=1)
        return least_sure, 1.0 - least_sure
    if values.shape[1] == 1:
        return values[:, 0], np.zeros(len(values))
    ordered = np.sort(values, axis=1)
    return ordered[:, -1], ordered[:, -2]
