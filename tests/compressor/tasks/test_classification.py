"""Classification: KL divergence by hand and by scipy; metrics by scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats
from sklearn import metrics as reference

from compressor.tasks.classification import (
    Classification,
    accuracy,
    macro_f1,
    mcc,
    mixed_distribution_cross_entropy,
    soft_target_divergence,
)

NUM_ROWS = st.shared(st.integers(1, 30), key="rows")
labels_of = hnp.arrays(np.int64, NUM_ROWS, elements=st.integers(0, 4))
pairs = st.tuples(labels_of, labels_of)


def test_divergence_of_hand_made_distributions() -> None:
    """KL taken the other way round, or without the square of T, still trains, but not this method."""
    student = torch.log(torch.tensor([[0.5, 0.5]]))
    teacher = torch.log(torch.tensor([[0.75, 0.25]]))
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert soft_target_divergence(student, teacher, 1.0).item() == pytest.approx(by_hand, abs=1e-6)
    # at T = 2, logits 2 log p soften to p again; the square of 2 multiplies
    assert soft_target_divergence(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * by_hand, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_divergence_agrees_with_scipy(temperature: float) -> None:
    """Summing over the batch or averaging over the classes would shift the balance with the hard loss."""
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(5, 6)) * 3, rng.normal(size=(5, 6)) * 3
    expected = temperature**2 * stats.entropy(
        special.softmax(teacher / temperature, axis=1), special.softmax(student / temperature, axis=1), axis=1
    )
    measured = soft_target_divergence(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-9)


def test_high_temperature_compares_centred_logits() -> None:
    """The limit of the paper's section 2.1: half the variance of the difference. Without T^2: 0."""
    student, teacher = torch.tensor([[1.0, 2.0, 4.0]]).double(), torch.tensor([[0.0, 3.0, 1.0]]).double()
    expected = (student - teacher).var(unbiased=False) / 2
    assert soft_target_divergence(student, teacher, 1e4).item() == pytest.approx(expected.item(), rel=1e-3)


def test_divergence_is_finite_for_confident_logits() -> None:
    """log(softmax) instead of log_softmax gives infinity for a sure teacher and ends a run in NaN."""
    sure = torch.tensor([[200.0, -200.0]])
    assert torch.isfinite(soft_target_divergence(-sure, sure, 1.0)).all()


def test_hard_loss_of_equal_logits_is_the_log_of_the_classes() -> None:
    """A loss over the wrong axis gives the log of the batch size instead."""
    losses = Classification().hard_loss(torch.zeros(2, 5), torch.tensor([0, 4]))
    torch.testing.assert_close(losses, torch.full((2,), math.log(5)))


@settings(max_examples=60)
@given(pairs)
def test_metrics_are_those_of_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Our counting is quicker than the library's; if it differed, every figure of a report would be wrong."""
    labels, predictions = pair
    assert accuracy(labels, predictions) == pytest.approx(reference.accuracy_score(labels, predictions))
    expected = reference.f1_score(labels, predictions, average="macro", zero_division=0)
    assert macro_f1(labels, predictions) == pytest.approx(expected)


@settings(max_examples=60)
@given(pairs)
def test_mcc_is_that_of_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """The same for MCC; the library warns of a single label where ours is 0."""
    labels, predictions = pair
    if len(set(labels) | set(predictions)) == 1:
        assert mcc(labels, predictions) == 0.0
    else:
        assert mcc(labels, predictions) == pytest.approx(reference.matthews_corrcoef(labels, predictions))


def test_mixed_distribution_by_hand() -> None:
    """Label 1 with weight 0.25 beside a teacher of 0.6 and 0.4 is 0.45 and 0.55, at temperature 1."""
    student, teacher = torch.log(torch.tensor([[0.9, 0.1]])), torch.log(torch.tensor([[0.6, 0.4]]))
    found = mixed_distribution_cross_entropy(student, torch.tensor([1]), teacher, torch.tensor([0.25]))
    assert found.item() == pytest.approx(-0.45 * math.log(0.9) - 0.55 * math.log(0.1), abs=1e-6)


def test_a_missing_label_that_is_read_is_an_error() -> None:
    """A filler clamped to the first class would teach that class to every text without label."""
    logits = torch.zeros(1, 3)
    with pytest.raises(RuntimeError):
        mixed_distribution_cross_entropy(logits, torch.tensor([-100]), logits, torch.tensor([0.5]))
