"""What several models say together: VOTE of students, and an ensemble of teachers.

Source: Xu, Qiu, Zhou and Huang (2020), arXiv:2002.10345: the mean of the models' probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import log_expit, log_softmax, logsumexp

from serving.manifest import TaskType


def vote(logits: Sequence[np.ndarray], task_type: TaskType) -> np.ndarray:
    """Logits whose answer is the mean of the models' answers.

    Classification: the logarithm of the mean probabilities, whose softmax they are. Multilabel: the logit of each
    label's mean probability. Regression: the mean value. Computed from logarithms, so that no probability becomes
    0 or 1 on the way.

    Args:
        logits: per model [rows, outputs], columns in one order; a row of NaN in any model is NaN in the result.
        task_type: what the logits mean.

    Returns:
        float32 [rows, outputs]; of a single model its own logits.
    """
    if len(logits) == 1:
        return np.asarray(logits[0], dtype=np.float32)
    stacked = np.stack(logits).astype(np.float64)
    if task_type == "regression":
        joined = stacked.mean(axis=0)
    elif task_type == "classification":
        joined = _log_mean(log_softmax(stacked, axis=2))
    else:
        joined = _log_mean(log_expit(stacked)) - _log_mean(log_expit(-stacked))
    return np.asarray(joined, dtype=np.float32)


def _log_mean(logarithms: np.ndarray) -> np.ndarray:
    """Logarithm of the mean over the first axis of numbers given by their logarithms."""
    mean: np.ndarray = logsumexp(logarithms, axis=0) - np.log(len(logarithms))
    return mean
