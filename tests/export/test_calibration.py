"""Calibration figures: against hand values, second implementations, and the two models whose truth is known."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax
from sklearn.metrics import brier_score_loss, log_loss

from export.calibration import (
    NUM_BINS,
    brier_per_row,
    calibration_error,
    equal_mass_bins,
    equal_width_bins,
    expected_error,
    measure_calibration,
    nll_per_row,
    reliability,
)
from serving.manifest import TaskSpec

INTENT = TaskSpec(name="intent", type="classification", labels=("a", "b", "c"))
TAGS = TaskSpec(name="tags", type="multilabel", labels=("x", "y"))
PROBABILITIES = arrays(np.float64, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=st.floats(0, 1))


def drawn_from(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Labels of a perfectly calibrated classifier: drawn from its own probabilities."""
    shares = softmax(logits, axis=1).cumsum(axis=1)
    picks = (np.random.default_rng(seed).random(len(logits))[:, None] > shares).sum(axis=1)
    return np.asarray(np.minimum(picks, logits.shape[1] - 1))


def random_logits(rows: int, classes: int = 3, seed: int = 1) -> np.ndarray:
    """Logits of a classifier that is sure of some texts and not of others."""
    return np.random.default_rng(seed).normal(scale=2.0, size=(rows, classes))


def brute_force_ece(confidences: np.ndarray, outcomes: np.ndarray, edges: list[float]) -> float:
    """ECE of one column by walking through the bins, each without its lower and with its upper edge."""
    total = 0.0
    for low, high in pairwise(edges):
        inside = (confidences > low) & (confidences <= high)
        if low == edges[0]:
            inside |= confidences == low
        if inside.any():
            total += inside.mean() * abs(outcomes[inside].mean() - confidences[inside].mean())
    return float(total)


def test_hand_values_of_all_figures() -> None:
    """Four answers whose figures fit on a napkin; a wrong mean, base or bin shows in the second digit."""
    task = TaskSpec(name="t", type="classification", labels=("a", "b"))
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    labels = np.array([0, 1, 0, 0])
    found = measure_calibration(task, logits, labels)
    assert found.rows == 4
    assert found.nll.value == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.4]).mean())
    assert found.brier.value == pytest.approx(2 * (0.01 + 0.81 + 0.16 + 0.36) / 4)
    assert found.ece.value == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(0.5 - 0.6))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_nll_and_brier_are_those_of_scikit_learn(temperature: float) -> None:
    """A second implementation: labels that are matched to the wrong column would not agree."""
    task = TaskSpec(name="intent", type="classification", labels=("a", "b", "c"), temperature=temperature)
    logits = random_logits(200)
    labels = np.random.default_rng(2).integers(0, 3, 200)
    found, shares = measure_calibration(task, logits, labels), softmax(logits / temperature, axis=1)
    assert found.nll.value == pytest.approx(log_loss(labels, shares, labels=[0, 1, 2]))
    expected = brier_score_loss(labels, shares, labels=[0, 1, 2], scale_by_half=False)
    assert found.brier.value == pytest.approx(expected)


def test_several_labels_count_by_themselves_and_are_averaged() -> None:
    """A softmax over labels that may all be present, or a sum over them, would be another figure."""
    logits = random_logits(150, classes=2)
    labels = (np.random.default_rng(3).random((150, 2)) < 0.4).astype(np.float32)
    found, shares = measure_calibration(TAGS, logits, labels), expit(logits)
    columns = [(labels[:, i], shares[:, i]) for i in range(2)]
    assert found.nll.value == pytest.approx(np.mean([log_loss(truth, share) for truth, share in columns]))
    assert found.brier.value == pytest.approx(np.mean([brier_score_loss(truth, share) for truth, share in columns]))
    edges = np.linspace(0, 1, NUM_BINS + 1).tolist()
    per_label = [brute_force_ece(share, truth, edges) for truth, share in columns]
    assert found.ece.value == pytest.approx(np.mean(per_label))


@settings(max_examples=50)
@given(PROBABILITIES, st.integers(0, 2**32 - 1))
def test_ece_equals_the_walk_through_the_bins(confidences: np.ndarray, seed: int) -> None:
    """The fast sum over bins must be the definition: an edge in the wrong bin or a lost column shows here."""
    outcomes = (np.random.default_rng(seed).random(confidences.shape) < 0.5).astype(np.float64)
    edges = np.linspace(0, 1, NUM_BINS + 1)
    bins = equal_width_bins(confidences)
    on_edges = np.isclose(confidences[:, :, None], edges).any(axis=(1, 2))  # 3/15 rounds to either side
    confidences, outcomes, bins = confidences[~on_edges], outcomes[~on_edges], bins[~on_edges]
    if not len(confidences):
        return
    columns = range(confidences.shape[1])
    expected = [brute_force_ece(confidences[:, i], outcomes[:, i], edges.tolist()) for i in columns]
    assert calibration_error(outcomes - confidences, bins) == pytest.approx(np.mean(expected), abs=1e-12)


@settings(max_examples=50)
@given(PROBABILITIES)
def test_every_probability_has_a_bin(confidences: np.ndarray) -> None:
    """0 and 1 lie on the ends: a bin of -1 would be counted as the last one of the column before."""
    for bins in (equal_width_bins(confidences), equal_mass_bins(confidences)):
        assert bins.shape == confidences.shape
        assert bins.min() >= 0
        assert bins.max() < NUM_BINS


def test_bins_of_equal_mass_hold_equally_many_and_never_part_equals() -> None:
    """Fifteen bins that one value falls into at random would make the figure depend on the order of the rows."""
    confidences = np.random.default_rng(0).random((300, 1)) ** 3
    assert np.bincount(equal_mass_bins(confidences)[:, 0]).tolist() == [20] * NUM_BINS
    ties = np.repeat([0.2, 0.7, 0.9], [100, 150, 50])[:, None]
    bins = equal_mass_bins(ties)[:, 0]
    assert [len(np.unique(bins[ties[:, 0] == value])) for value in (0.2, 0.7, 0.9)] == [1, 1, 1]
    assert len(np.unique(bins)) == 3


def test_both_kinds_of_bins_are_told_each_with_its_own_chance() -> None:
    """One kind under both names would hide what the other sees: most answers share the last bins of equal width."""
    logits = random_logits(300)
    labels = drawn_from(logits * 0.5)
    shares = softmax(logits, axis=1)
    confidences, right = shares.max(axis=1), (shares.argmax(axis=1) == labels).astype(np.float64)
    groups = np.array_split(np.argsort(confidences), NUM_BINS)
    expected = sum(len(rows) / 300 * abs(right[rows].mean() - confidences[rows].mean()) for rows in groups)
    found = measure_calibration(INTENT, logits, labels)
    assert found.ece_equal_mass.value == pytest.approx(expected)
    assert found.ece.value != pytest.approx(expected)
    assert found.expected_ece_equal_mass != found.expected_ece


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_changes_nothing(seed: int) -> None:
    """A figure that depends on the order of the texts cannot be measured again."""
    logits, order = random_logits(80), np.random.default_rng(seed).permutation(80)
    labels = drawn_from(logits)
    first, second = (reliability(INTENT, logits[rows], labels[rows]) for rows in (np.arange(80), order))
    assert [(item.count, item.right) for item in first] == [(item.count, item.right) for item in second]
    for rows in (np.arange(80), order):
        assert nll_per_row(logits[rows], labels[rows], "classification").mean() == pytest.approx(
            nll_per_row(logits, labels, "classification").mean()
        )


def test_a_calibrated_model_is_not_called_miscalibrated() -> None:
    """ECE is never 0 on a sample: without what chance gives, every small test split looks overconfident."""
    hits = 0
    for seed in range(20):
        logits = random_logits(200, seed=seed)
        found = measure_calibration(INTENT, logits, drawn_from(logits, seed))
        hits += found.expected_ece.low <= found.ece.value <= found.expected_ece.high
        assert found.ece.low == 0.0
        assert found.ece.value > 0.005
    assert hits >= 17


def test_an_overconfident_model_is_found() -> None:
    """Labels drawn at a third of the confidence: the error must stand out of what chance explains."""
    logits = random_logits(400)
    found = measure_calibration(INTENT, logits * 3, drawn_from(logits))
    assert found.ece.value > 2 * found.expected_ece.high
    assert found.ece.low > found.expected_ece.high
    assert found.ece_equal_mass.value > found.expected_ece_equal_mass.high
    assert found.nll.low > nll_per_row(logits, drawn_from(logits), "classification").mean()


def test_the_interval_of_an_error_holds_the_true_one() -> None:
    """Resampling lifts the ECE once more: plain percentiles lie above a small error eight times of ten."""
    task = TaskSpec(name="t", type="classification", labels=("a", "b"))
    held = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shares = rng.beta(4, 1, 200).clip(0.5001)
        truth = np.where(shares > 0.8, shares - 0.1, shares)  # only the surest answers are claimed too high
        labels = (rng.random(200) >= truth).astype(np.int64)
        found = measure_calibration(task, np.log(np.column_stack([shares, 1 - shares])), labels)
        held += found.ece.low <= 0.1 * (shares > 0.8).mean() <= found.ece.high
        assert found.ece.low <= found.ece.value <= found.ece.high
    assert held >= 19


def test_what_chance_gives_shrinks_with_the_square_root_of_the_texts() -> None:
    """Four times as many texts halve it; a figure that does not shrink would excuse any model."""
    confidences = np.random.default_rng(0).random((200, 1))
    few = expected_error(confidences, equal_width_bins(confidences)).value
    many = np.repeat(confidences, 4, axis=0)
    assert expected_error(many, equal_width_bins(many)).value == pytest.approx(few / 2, rel=0.1)


def test_a_reliability_diagram_counts_every_answer_once() -> None:
    """Answers that fall out of all bins, or bins whose mean is their middle, would draw another model."""
    logits = random_logits(500)
    labels = drawn_from(logits)
    points = reliability(INTENT, logits, labels)
    shares = softmax(logits, axis=1)
    assert sum(point.count for point in points) == 500
    assert np.average([p.confidence for p in points], weights=[p.count for p in points]) == pytest.approx(
        shares.max(axis=1).mean()
    )
    assert np.average([p.right for p in points], weights=[p.count for p in points]) == pytest.approx(
        (shares.argmax(axis=1) == labels).mean()
    )
    assert [p.confidence for p in points] == sorted(p.confidence for p in points)
    assert all(0 <= p.low <= p.right <= p.high <= 1 for p in points)


def test_extreme_logits_give_numbers() -> None:
    """A teacher of stored probabilities is sure to 1e-7: a logarithm of 0 would blank the whole report."""
    logits = np.array([[800.0, -800.0, 0.0], [-800.0, 800.0, 0.0]])
    found = measure_calibration(INTENT, logits, np.array([0, 0]))
    assert found.nll.value == pytest.approx(800.0)
    assert np.isfinite([found.brier.value, found.ece.value, found.expected_ece.value]).all()
    assert nll_per_row(np.array([[800.0, -800.0]]), np.array([[0, 0]]), "multilabel") == pytest.approx([400.0])


def test_a_regression_has_no_probabilities() -> None:
    """Figures of values that are no probabilities would be believed."""
    task = TaskSpec(name="stars", type="regression")
    labels: Any = np.zeros(3)
    with pytest.raises(ValueError, match="regression"):
        measure_calibration(task, np.zeros((3, 1)), labels)


def test_the_temperature_of_the_task_is_read() -> None:
    """Figures at temperature 1 beside a served temperature would describe another model."""
    logits, labels = random_logits(100), drawn_from(random_logits(100))
    warm = TaskSpec(name="intent", type="classification", labels=("a", "b", "c"), temperature=3.0)
    halves = [measure_calibration(warm, logits, labels), measure_calibration(INTENT, logits / 3.0, labels)]
    assert halves[0] == halves[1]
    assert brier_per_row(warm, logits, labels) == pytest.approx(brier_per_row(INTENT, logits / 3.0, labels))
