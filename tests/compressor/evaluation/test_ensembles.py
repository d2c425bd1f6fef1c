"""Several models that answer together: the mean of what they say, for every task type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax

from compressor.evaluation.ensembles import vote
from serving.manifest import TaskType


def random_logits(seed: int, models: int = 3, scale: float = 3.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(scale=scale, size=(5, 4)).astype(np.float32) for _ in range(models)]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_the_probabilities_are_the_mean_of_the_models(seed: int, models: int) -> None:
    """Catches a mean of logits, which is another ensemble than the one that was published."""
    logits = random_logits(seed, models)
    probabilities = np.mean([softmax(part, axis=1) for part in logits], axis=0)
    np.testing.assert_allclose(softmax(vote(logits, "classification"), axis=1), probabilities, atol=1e-6)
    scores = np.mean([expit(part) for part in logits], axis=0)
    np.testing.assert_allclose(expit(vote(logits, "multilabel")), scores, atol=1e-6)
    np.testing.assert_allclose(vote(logits, "regression"), np.mean(logits, axis=0), atol=1e-6)


def test_a_hand_value_where_the_two_means_differ() -> None:
    """Catches an average that lets the most confident model decide alone: two votes of 0.6 beat one of 0.999."""
    logits = [np.log([[0.4, 0.6]]), np.log([[0.4, 0.6]]), np.log([[0.999, 0.001]])]
    np.testing.assert_allclose(softmax(vote(logits, "classification"), axis=1), [[0.5997, 0.4003]], atol=1e-4)
    assert np.mean(logits, axis=0).argmax() == 0
    scores = [np.array([[2.0]]), np.array([[-1.0]])]
    expected = np.log((expit(2.0) + expit(-1.0)) / (2 - expit(2.0) - expit(-1.0)))
    np.testing.assert_allclose(vote(scores, "multilabel"), [[expected]], atol=1e-6)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_sure_models_give_finite_logits(kind: TaskType) -> None:
    """Catches a probability of 0 or 1 on the way, whose logarithm poisons every later loss."""
    sure = np.array([[200.0, -200.0], [-200.0, 200.0]], dtype=np.float32)
    found = vote([sure, sure], kind)
    assert np.isfinite(found).all()
    assert (found.argmax(axis=1) == sure.argmax(axis=1)).all()
    np.testing.assert_allclose(vote([sure, -sure], kind), 0.0 if kind == "multilabel" else -np.log(2), atol=1e-4)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_one_model_keeps_its_own_logits(kind: TaskType) -> None:
    """Catches logits that lose their scale: a temperature and stored targets of a single teacher would change."""
    (own,) = random_logits(0, 1)
    assert (vote([own], kind) == own).all()


def test_an_unanswered_row_stays_unanswered() -> None:
    """Catches a NaN that becomes an answer."""
    first, second = random_logits(1, 2)
    first[2] = np.nan
    for kind in ("classification", "multilabel", "regression"):
        found = vote([first, second], kind)
        assert np.isnan(found).all(axis=1).tolist() == [False, False, True, False, False]
