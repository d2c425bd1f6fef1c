"""Metrics with intervals, and figures per class."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn import metrics as reference

from compressor.evaluation.metrics import confusion, evaluate, per_class
from serving.manifest import TaskSpec

INTENT = TaskSpec(name="intent", type="classification", labels=("a", "b", "c", "d"), metric="macro_f1")
TAGS = TaskSpec(name="tags", type="multilabel", labels=("a", "b"), metric="micro_f1", thresholds=(0.5, 0.9))
STARS = TaskSpec(name="stars", type="regression", range=(1.0, 5.0), metric="spearman")


def noisy_intents(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels; about three of four answers are right, and class d never occurs."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, rows)
    logits = rng.normal(size=(rows, 4))
    logits[np.arange(rows), labels] += 2.0
    return logits, labels


def test_every_metric_stands_in_an_interval_around_it() -> None:
    """An interval of another metric, or of resampled labels alone, would not hold the value."""
    logits, labels = noisy_intents(400)
    figures = evaluate(INTENT, logits, labels)
    assert list(figures) == ["macro_f1", "accuracy", "mcc"]
    assert figures["accuracy"].value == pytest.approx((logits.argmax(axis=1) == labels).mean())
    for name, interval in figures.items():
        assert interval.metric == name
        assert interval.low < interval.value < interval.high
    accuracy = figures["accuracy"]
    standard_error = np.sqrt(accuracy.value * (1 - accuracy.value) / 400)
    assert accuracy.high - accuracy.low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


def test_the_same_seed_gives_the_same_interval() -> None:
    """A report written twice must say the same."""
    logits, labels = noisy_intents(50)
    assert evaluate(INTENT, logits, labels, samples=50) == evaluate(INTENT, logits, labels, samples=50)
    assert evaluate(INTENT, logits, labels, samples=50, seed=1) != evaluate(INTENT, logits, labels, samples=50)


def test_regression_is_judged_in_the_users_units() -> None:
    """A squared error on the scaled values would look sixteen times smaller than it is."""
    labels = np.array([1.0, 2.0, 4.0, 5.0], dtype=np.float32)
    logits = ((labels - 1) / 4 + 0.25)[:, None]
    figures = evaluate(STARS, logits, labels, samples=20)
    assert figures["neg_mean_squared_error"].value == pytest.approx(-1.0)
    assert figures["spearman"].value == pytest.approx(1.0)
    assert per_class(STARS, logits, labels) == []


def test_figures_per_class_are_those_of_scikit_learn() -> None:
    """A class that never occurs must keep its row, or all names after it shift."""
    logits, labels = noisy_intents(200)
    rows = per_class(INTENT, logits, labels)
    expected = reference.precision_recall_fscore_support(
        labels, logits.argmax(axis=1), labels=range(4), zero_division=0
    )
    assert [row["label"] for row in rows] == list(INTENT.labels)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[name] for row in rows] == pytest.approx(values.tolist())
    assert rows[3]["support"] == 0


def test_figures_per_label_use_the_tasks_thresholds() -> None:
    """Figures at 0.5 would describe another model than the one that is served."""
    logits = np.array([[3.0, 3.0], [-3.0, 1.0], [3.0, -1.0]])
    labels = np.array([[1, 1], [0, 1], [0, 0]], dtype=np.float32)
    first, second = per_class(TAGS, logits, labels)
    assert (first["precision"], first["recall"], first["support"]) == (0.5, 1.0, 1)
    assert (second["precision"], second["recall"], second["support"]) == (1.0, 0.5, 2)
    assert evaluate(TAGS, logits, labels, samples=20)["micro_f1"].value == pytest.approx(2 * 2 / (3 + 3))


def test_a_task_of_one_label_has_one_row() -> None:
    """One column looks like two classes to scikit-learn."""
    task = TaskSpec(name="spam", type="multilabel", labels=("spam",), metric="micro_f1")
    rows = per_class(task, np.array([[1.0], [-1.0], [1.0]]), np.array([[1], [1], [0]], dtype=np.float32))
    assert rows == [{"label": "spam", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}]


def test_confusion_counts_labels_by_answers() -> None:
    """A transposed matrix blames the wrong class."""
    logits = np.eye(4)[[1, 1, 2]]
    assert confusion(INTENT, logits, np.array([0, 1, 2])) == [
        [0, 1, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0] * 4,
    ]
    with pytest.raises(ValueError, match="is multilabel"):
        confusion(TAGS, np.zeros((1, 2)), np.zeros((1, 2)))


def test_a_thousand_resamples_of_a_test_split_take_under_a_second() -> None:
    """Every model and artifact of a run is evaluated: seconds here are minutes of the demo."""
    logits, labels = noisy_intents(800)
    start = time.perf_counter()
    evaluate(INTENT, logits, labels)
    assert time.perf_counter() - start < 1.0
