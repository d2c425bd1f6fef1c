"""Temperatures: a known one is found, a useless one is not used, and no decision ever changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax

from export.calibration import nll_per_row
from export.temperature import (
    HIGHEST,
    LOWEST,
    MIN_ROWS,
    best_temperature,
    calibrated,
    cross_fitted_nll,
    fit_temperature,
)
from serving.answers import answer, decide, probabilities
from serving.manifest import TaskSpec

CLASSES = 4


def sample(rows: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels of a world in which they are right at this temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(rows, CLASSES))
    shares = softmax(logits / temperature, axis=1).cumsum(axis=1)
    labels = np.minimum((rng.random(rows)[:, None] > shares).sum(axis=1), CLASSES - 1)
    return logits, labels


def flags(rows: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The same for three labels of which each may be present."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(rows, 3))
    return logits, (rng.random((rows, 3)) < expit(logits / temperature)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.7, 4.0])
@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_a_known_temperature_is_found_within_its_interval(temperature: float, kind: str) -> None:
    """A fit of 1/T, of the square, or an interval that is always as wide would miss one of the three."""
    make, task_type = (sample, "classification") if kind == "classification" else (flags, "multilabel")
    fit = fit_temperature(*make(3000, temperature), task_type)  # type: ignore[arg-type]
    assert fit.fitted is not None
    assert fit.low is not None
    assert fit.high is not None
    assert fit.low < temperature < fit.high
    assert fit.temperature == fit.fitted == pytest.approx(temperature, rel=0.12)
    assert fit.high / fit.low < 1.25


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """95% must be neither 50% nor all: forty samples of a known temperature, of which about two may miss."""
    fits = [fit_temperature(*sample(300, 2.0, seed), "classification") for seed in range(40)]
    held = [fit.low < 2.0 < fit.high for fit in fits if fit.low is not None and fit.high is not None]
    assert len(held) == 40
    assert sum(held) >= 33
    widths = [np.log(fit.high / fit.low) for fit in fits if fit.low and fit.high]
    spread = np.std([np.log(fit.fitted) for fit in fits if fit.fitted])
    assert np.mean(widths) == pytest.approx(2 * 1.96 * spread, rel=0.35)


def test_the_fit_is_the_minimum() -> None:
    """A search that stops early would leave a better temperature beside it."""
    logits, labels = sample(400, 2.0)
    best = best_temperature(logits, labels, "classification")
    own = nll_per_row(logits / best, labels, "classification").mean()
    for other in (0.9 * best, 0.99 * best, 1.01 * best, 1.1 * best, 1.0):
        assert own < nll_per_row(logits / other, labels, "classification").mean()


def test_a_calibrated_model_keeps_temperature_one() -> None:
    """A fitted 1.03 on 300 texts is noise: used, it would be a claim that nobody can show again."""
    kept = [fit_temperature(*sample(300, 1.0, seed), "classification") for seed in range(20)]
    assert sum(fit.temperature == 1.0 for fit in kept) >= 17
    told = next(fit for fit in kept if fit.temperature == 1.0)
    assert "do not show" in told.reason
    assert told.gain is not None
    assert told.gain.low <= 0.0


def test_a_gain_that_may_be_chance_is_not_taken() -> None:
    """A little too sharp, seen on a hundred texts: the gain is above 0 here, and below it on the next hundred."""
    fits = [fit_temperature(*sample(100, 1.2, seed), "classification") for seed in range(20)]
    unsure = [fit for fit in fits if fit.gain and fit.gain.value > 0.0 >= fit.gain.low]
    assert len(unsure) >= 3
    assert {fit.temperature for fit in unsure} == {1.0}


def test_the_smallest_split_that_is_fitted() -> None:
    """The limit itself is enough: docs and report name it."""
    assert fit_temperature(*sample(MIN_ROWS, 3.0), "classification").fitted is not None


def test_the_gain_is_measured_on_rows_outside_the_fit() -> None:
    """The minimum is always at least as good on its own rows: that gain would be no finding."""
    logits, labels = sample(60, 1.0, seed=3)
    before = nll_per_row(logits, labels, "classification").mean()
    inside = nll_per_row(logits / best_temperature(logits, labels, "classification"), labels, "classification").mean()
    fit = fit_temperature(logits, labels, "classification")
    assert fit.nll_before == pytest.approx(before)
    assert fit.nll_after is not None
    assert fit.nll_after > inside
    assert fit.gain is not None
    assert fit.gain.value == pytest.approx(before - fit.nll_after)
    folds = np.random.default_rng(0).permutation(60) % 5
    rest = folds != folds[7]
    own = best_temperature(logits[rest], labels[rest], "classification")
    expected = nll_per_row(logits[7:8] / own, labels[7:8], "classification")[0]
    assert cross_fitted_nll(logits, labels, "classification")[7] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        (np.ones((MIN_ROWS - 1, 3)), np.zeros(MIN_ROWS - 1, dtype=int), "too few"),
        (np.eye(3)[np.arange(90) % 3], np.arange(90) % 3, "no temperature between"),
        (-np.eye(3)[np.arange(90) % 3], np.arange(90) % 3, "no temperature between"),
        (np.full((90, 3), np.inf), np.arange(90) % 3, "not finite"),
        (np.zeros((90, 3)), np.arange(90) % 3, "no temperature between"),
    ],
    ids=["few", "all right", "all wrong", "broken", "all alike"],
)
def test_where_nothing_can_be_fitted_it_stays_one_and_says_why(
    logits: np.ndarray, labels: np.ndarray, said: str
) -> None:
    """All answers right has no best temperature: the lower bound would make every answer certain."""
    fit = fit_temperature(logits, labels, "classification")
    assert fit.temperature == 1.0
    assert fit.reason.startswith("kept at 1")
    assert said in fit.reason


def test_a_regression_is_refused() -> None:
    """Its values are in units of the user, which a temperature would shrink."""
    with pytest.raises(ValueError, match="regression"):
        fit_temperature(np.zeros((90, 1)), np.zeros(90), "regression")
    task = TaskSpec(name="stars", type="regression", range=(1.0, 5.0))
    assert calibrated(task, 2.0) is task


@settings(max_examples=60)
@given(st.floats(LOWEST, HIGHEST), st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3), st.integers(0, 2**32 - 1))
def test_no_decision_changes_whatever_the_thresholds(temperature: float, thresholds: list[float], seed: int) -> None:
    """A threshold chosen on raw probabilities would let other labels through once a temperature moves these."""
    logits = np.random.default_rng(seed).normal(scale=3.0, size=(30, 3))
    tags = TaskSpec(name="t", type="multilabel", labels=("a", "b", "c"), thresholds=tuple(thresholds))
    assert np.array_equal(decide(logits, tags), decide(logits, calibrated(tags, temperature)))
    intent = TaskSpec(name="t", type="classification", labels=("a", "b", "c"))
    warm = calibrated(intent, temperature)
    assert [answer(row, intent)["label"] for row in logits] == [answer(row, warm)["label"] for row in logits]
    assert np.allclose(probabilities(logits, warm), softmax(logits / temperature, axis=1))


def test_thresholds_move_with_the_temperature() -> None:
    """0.9 at temperature 1 is a logit of ln 9, which temperature 2 reads as 0.75; one half stays one half."""
    tags = TaskSpec(name="t", type="multilabel", labels=("a", "b", "c"), thresholds=(0.9, 0.5, 0.0))
    warm = calibrated(tags, 2.0)
    assert warm.temperature == 2.0
    assert warm.thresholds == pytest.approx((0.75, 0.5, 0.0))
    assert calibrated(warm, 1.0).thresholds == pytest.approx(tags.thresholds)
    assert calibrated(tags, 1.0) is tags


def test_without_thresholds_one_half_is_not_written_out() -> None:
    """A bundle whose threshold is the default must stay so: other tools would think that somebody chose it."""
    assert calibrated(TaskSpec(name="t", type="multilabel", labels=("a",)), 3.0).thresholds == ()
