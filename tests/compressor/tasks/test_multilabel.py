"""Multilabel: binary cross-entropy by hand and by numpy; F1 by scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special
from sklearn import metrics as reference

from compressor.tasks.multilabel import (
    Multilabel,
    macro_f1,
    micro_f1,
    mixed_label_cross_entropy,
    soft_label_cross_entropy,
)

matrices = st.tuples(st.integers(1, 12), st.integers(2, 5)).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)


def test_losses_of_undecided_logits_are_log_two() -> None:
    """A sum over the labels would make the loss grow with their number and drown the other tasks'."""
    logits = torch.zeros(1, 7)
    expected = torch.tensor([math.log(2)])
    torch.testing.assert_close(Multilabel().hard_loss(logits, torch.ones(1, 7)), expected)
    torch.testing.assert_close(soft_label_cross_entropy(logits, torch.zeros(1, 7), 1.0), expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_soft_loss_agrees_with_numpy(temperature: float) -> None:
    """A teacher not divided by T, or a missing T^2, still gives a loss that falls."""
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    wanted, given_ = special.expit(teacher / temperature), special.expit(student / temperature)
    entropy = -(wanted * np.log(given_) + (1 - wanted) * np.log(1 - given_))
    measured = soft_label_cross_entropy(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    np.testing.assert_allclose(measured.numpy(), temperature**2 * entropy.mean(axis=1), rtol=1e-9)


def test_soft_loss_of_a_certain_teacher_is_the_hard_loss() -> None:
    """The two losses must share one scale, or their weights mean nothing."""
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    certain = (labels * 2 - 1) * 100
    torch.testing.assert_close(soft_label_cross_entropy(logits, certain, 1.0), Multilabel().hard_loss(logits, labels))


@settings(max_examples=60)
@given(matrices)
def test_metrics_are_those_of_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Our counting is quicker than the library's; if it differed, every figure of a report would be wrong."""
    labels, predictions = pair
    for average, ours in (("micro", micro_f1), ("macro", macro_f1)):
        expected = reference.f1_score(labels, predictions, average=average, zero_division=0)
        assert ours(labels.astype(np.float32), predictions) == pytest.approx(expected)


def test_mixed_labels_by_hand() -> None:
    """Labels 1 and 0 with weight 0.5 beside a teacher of 0.2 and 0.6 are 0.6 and 0.3; the mean over the labels."""
    student, teacher = (torch.logit(torch.tensor([row])) for row in ([0.7, 0.1], [0.2, 0.6]))
    found = mixed_label_cross_entropy(student, torch.tensor([[1.0, 0.0]]), teacher, torch.tensor([0.5]))
    first = -0.6 * math.log(0.7) - 0.4 * math.log(0.3)
    second = -0.3 * math.log(0.1) - 0.7 * math.log(0.9)
    assert found.item() == pytest.approx((first + second) / 2, abs=1e-6)
