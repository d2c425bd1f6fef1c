"""Candidates that leak, repeat, drift too far or are doubtful are dropped, and counted for what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from compressor.data.leakage import text_keys
from compressor.distillation.augmentation.candidates import Candidates
from compressor.distillation.augmentation.filters import keep_close, keep_new, keep_sure
from serving.manifest import TaskSpec

THREE = TaskSpec(name="topic", type="classification", labels=("a", "b", "c"))
FLAGS = TaskSpec(name="flags", type="multilabel", labels=("x", "y"), thresholds=(0.2, 0.9))
VALUE = TaskSpec(name="value", type="regression")


def candidates_of(texts: Sequence[tuple[str, ...]]) -> Candidates:
    size = len(texts)
    return Candidates(
        texts=list(texts),
        starts=list(texts),
        is_source=np.zeros(size, dtype=bool),
        start_rows=np.arange(size),
        rounds=np.ones(size, dtype=np.int64),
        edit_ratios=np.zeros(size, dtype=np.float32),
        domain_scores=np.zeros(size, dtype=np.float32),
    )


def keys(*texts: tuple[str, ...]) -> set[str]:
    return set(text_keys(list(texts)))


@pytest.mark.parametrize(
    "copy", ["Where is my card", "WHERE is my card?!", " where  is, my card ", "Where is my card?"]
)
def test_a_candidate_that_occurs_in_an_evaluation_split_is_dropped_and_counted(copy: str) -> None:
    """Catches a leak: the student would be tested on a text that it was trained on, in another dress."""
    is_kept, counts = keep_new(
        candidates_of([("a new text",), (copy,)]), seen_keys=keys(("Where is my card?",)), own_keys=set()
    )
    assert is_kept.tolist() == [True, False]
    assert counts == {"evaluation": 1, "own": 0, "repeated": 0}


def test_every_dropped_candidate_is_counted_once() -> None:
    """Catches counts that do not add up to what was dropped, and a leak that is reported as a repetition."""
    texts = [("seen",), ("Seen!",), ("own",), ("new",), ("NEW",), ("other",), ("both",)]
    is_kept, counts = keep_new(
        candidates_of(texts), seen_keys=keys(("seen",), ("both",)), own_keys=keys(("own",), ("both",))
    )
    assert is_kept.tolist() == [False, False, False, True, False, True, False]
    assert counts == {"evaluation": 3, "own": 1, "repeated": 1}
    assert is_kept.dtype == bool


def test_a_pair_is_the_same_in_either_order() -> None:
    """Catches a test pair that is trained on with its texts swapped."""
    pairs = candidates_of([("b", "A"), ("a", "c"), ("c", "a")])
    is_kept, counts = keep_new(pairs, seen_keys=keys(("a", "b")), own_keys=set())
    assert is_kept.tolist() == [False, True, False]
    assert counts == {"evaluation": 1, "own": 0, "repeated": 1}


def test_nothing_in_nothing_out() -> None:
    """Catches an error where a filter before has dropped everything: empty selections are legal."""
    is_kept, counts = keep_new(candidates_of([]), seen_keys=keys(("a",)), own_keys=set())
    assert is_kept.shape == (0,)
    assert sum(counts.values()) == 0
    for task in (THREE, FLAGS, VALUE):
        empty = np.zeros((0, task.num_outputs), dtype=np.float32)
        assert keep_sure(empty, task, min_confidence=0.6, min_margin=0.2).shape == (0,)


def test_a_ratio_that_equals_the_limit_is_kept() -> None:
    """Catches float32: three words of ten are more than 0.3 there."""
    ratios = np.array([0.0, 0.29, 3 / 10, 0.31, 1.0], dtype=np.float32)
    assert float(ratios[2]) > 0.3
    for limit in (0.3, float(np.float64(0.3)), np.float64(0.3)):
        assert keep_close(ratios, limit).tolist() == [True, True, True, False, False]
    assert keep_close(ratios, 1.0).all()
    assert keep_close(ratios, 0.0).tolist() == [True, False, False, False, False]


def logits_of(*rows: Any) -> np.ndarray:
    return np.log(np.array(rows, dtype=np.float32))


def test_a_classification_is_sure_by_confidence_and_by_margin() -> None:
    """Catches a filter that asks only for one of the two, or reads logits as probabilities."""
    logits = logits_of([0.7, 0.2, 0.1], [0.55, 0.25, 0.2], [0.52, 0.46, 0.02], [0.1, 0.1, 0.8], [0.34, 0.33, 0.33])
    assert keep_sure(logits, THREE, min_confidence=0.6, min_margin=0.0).tolist() == [True, False, False, True, False]
    assert keep_sure(logits, THREE, min_confidence=0.0, min_margin=0.2).tolist() == [True, True, False, True, False]
    assert keep_sure(logits, THREE, min_confidence=0.0, min_margin=0.0).all()
    assert keep_sure(logits + 3.0, THREE, min_confidence=0.6, min_margin=0.2).tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_of_several_labels_the_least_sure_one_decides() -> None:
    """Catches a doubtful label that a sure one beside it hides, and an absent label that counts as doubt."""
    logits = np.array([[3.0, -3.0], [3.0, 0.1], [-4.0, -4.0], [0.5, 9.0]], dtype=np.float32)
    assert keep_sure(logits, FLAGS, min_confidence=0.6, min_margin=0.0).tolist() == [True, False, True, True]
    assert keep_sure(logits, FLAGS, min_confidence=0.0, min_margin=0.5).tolist() == [True, False, True, False]
    probability = 1 / (1 + np.exp(-0.5))
    for shift, expected in ((-1e-6, True), (1e-6, False)):
        limit = 2 * probability - 1 + shift
        assert keep_sure(logits[3:], FLAGS, min_confidence=0.0, min_margin=limit).tolist() == [expected]


def test_a_regression_keeps_every_row() -> None:
    """Catches values read as doubt: a regression's logits are no probabilities."""
    assert keep_sure(np.array([[0.0], [0.5], [2.0]]), VALUE, min_confidence=1.0, min_margin=1.0).all()


def test_a_single_label_is_always_sure() -> None:
    """Catches an index error for a task of one label."""
    one = TaskSpec(name="one", type="classification", labels=("a",))
    assert keep_sure(np.array([[0.3], [-2.0]]), one, min_confidence=1.0, min_margin=1.0).all()
