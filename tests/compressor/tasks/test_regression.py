"""Regression: the scale of labels and logits, and correlations where nothing varies."""

import numpy as np
import pytest
import torch

from compressor.tasks.regression import Regression, mixed_value_error, neg_mean_squared_error, pearson, spearman
from serving.answers import decide
from serving.manifest import TaskSpec

STARS = TaskSpec(name="stars", type="regression", range=(1.0, 5.0))


def test_targets_run_from_zero_to_one_over_the_training_range() -> None:
    """Unscaled targets would train a student whose answers the server multiplies by the range again."""
    targets = Regression().targets(np.array([1.0, 3.0, 5.0, 7.0], dtype=np.float32), STARS)
    np.testing.assert_allclose(targets, [0.0, 0.5, 1.0, 1.5])
    assert targets.dtype == np.float32


def test_a_logit_without_loss_is_served_as_the_label() -> None:
    """Training and serving must agree on what a logit means."""
    labels = np.array([1.0, 2.5, 5.0], dtype=np.float32)
    targets = torch.from_numpy(Regression().targets(labels, STARS))
    assert Regression().hard_loss(targets[:, None], targets).sum().item() == 0
    np.testing.assert_allclose(decide(targets[:, None].numpy(), STARS), labels, rtol=1e-6)


def test_losses_are_squared_distances() -> None:
    """[batch, 1] minus [batch] broadcasts to [batch, batch], a loss that trains towards the mean."""
    logits = torch.tensor([[0.5], [0.0], [1.0]])
    losses = Regression().hard_loss(logits, torch.tensor([0.0, 0.0, 3.0]))
    torch.testing.assert_close(losses, torch.tensor([0.25, 0.0, 4.0]))
    teacher = torch.tensor([[0.0], [0.0], [3.0]])
    torch.testing.assert_close(Regression().soft_loss(logits, teacher, 5.0), losses)


@pytest.mark.parametrize("metric", [pearson, spearman])
def test_a_constant_prediction_correlates_with_nothing(metric: object) -> None:
    """A NaN, as scipy gives with a warning, compares as false in every gate."""
    assert callable(metric)
    labels = np.array([1.0, 2.0, 3.0])
    assert metric(labels, np.full(3, 0.1) + np.array([0, 1e-9, 0])) == 0.0
    assert metric(np.full(3, 4.0), labels) == 0.0


def test_metrics_of_hand_made_values() -> None:
    """Swapped or rank-for-value correlations would pass unnoticed on nearly linear data."""
    labels, predictions = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.0, 10.0])
    assert spearman(labels, predictions) == pytest.approx(1.0)
    assert pearson(labels, predictions) == pytest.approx(14 / np.sqrt(5 * 50))
    assert neg_mean_squared_error(labels, predictions) == pytest.approx(-9.0)


def test_mixed_values_by_hand() -> None:
    """Label 1 with weight 0.25 beside a teacher of 0.2 is 0.4; [batch, 1] must not broadcast against [batch]."""
    student, teacher = torch.tensor([[0.9], [0.0]]), torch.tensor([[0.2], [1.0]])
    found = mixed_value_error(student, torch.tensor([1.0, 0.0]), teacher, torch.tensor([0.25, 0.0]))
    assert found.tolist() == pytest.approx([0.25, 1.0])
