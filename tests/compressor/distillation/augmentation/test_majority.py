"""A teacher that errs more than a constant answer."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.distillation.augmentation.majority import check_above_majority, error_of
from serving.errors import UserError
from serving.manifest import TaskSpec

TOPIC = TaskSpec(name="topic", type="classification", labels=("a", "b", "c"), metric="accuracy")
TAGS = TaskSpec(name="tags", type="multilabel", labels=("a", "b"), metric="micro_f1")
SCORE = TaskSpec(name="score", type="regression", labels=(), metric="mae", range=(0.0, 5.0))


def one_hot(classes: list[int]) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[classes] * 4


def test_a_classifier_below_the_commonest_class_is_refused() -> None:
    """Catches a broken teacher whose answers would be distilled as if they were right."""
    labels = np.array([0, 0, 0, 1, 2])
    check_above_majority(one_hot([0, 0, 0, 0, 0]), labels, TOPIC)
    check_above_majority(one_hot([0, 0, 0, 1, 1]), labels, TOPIC)
    with pytest.raises(UserError, match=r"errs more on its 5 training rows \(0\.600\).*\(0\.400\)"):
        check_above_majority(one_hot([0, 0, 1, 2, 1]), labels, TOPIC)


def test_every_task_type_has_its_error() -> None:
    """Catches a check that passes every teacher of one type."""
    tags = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    check_above_majority(np.where(tags > 0, 3.0, -3.0), tags, TAGS)
    with pytest.raises(UserError, match="errs more"):
        check_above_majority(np.where(tags > 0, -3.0, 3.0), tags, TAGS)
    scores = np.array([0.0, 2.5, 5.0], dtype=np.float32)
    check_above_majority((scores / 5)[:, None], scores, SCORE)
    with pytest.raises(UserError, match="errs more"):
        check_above_majority((1 - scores / 5)[:, None], scores, SCORE)
    assert error_of(scores + 1, scores, SCORE) == pytest.approx(1.0)
