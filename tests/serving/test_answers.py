"""Reading logits: by hand values, limits and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from serving.answers import answer, decide, probabilities
from serving.errors import UserError
from serving.manifest import TaskSpec

LABELS = ("a", "b", "c")
CHOICE = TaskSpec(name="choice", type="classification", labels=LABELS)
MANY = TaskSpec(name="many", type="multilabel", labels=LABELS)
NUMBER = TaskSpec(name="number", type="regression", range=(2.0, 6.0))
logit_rows = st.lists(st.floats(-200, 200, width=32), min_size=3, max_size=3)


@given(logit_rows, st.floats(0.1, 10))
def test_probabilities_equal_a_second_implementation_at_any_temperature(row: list[float], temperature: float) -> None:
    """Catches a temperature that multiplies instead of divides, or an overflow at large logits."""
    choice = TaskSpec(name="choice", type="classification", labels=LABELS, temperature=temperature)
    many = TaskSpec(name="many", type="multilabel", labels=LABELS, temperature=temperature)
    scaled = np.array([row]) / temperature
    np.testing.assert_allclose(probabilities([row], choice), softmax(scaled, axis=1), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(probabilities([row], many), expit(scaled), rtol=1e-9, atol=1e-300)


@given(logit_rows)
def test_the_chosen_label_has_the_highest_score(row: list[float]) -> None:
    """A decision from one reading of the logits and a score from another would contradict each other."""
    reply = answer(row, CHOICE)
    assert reply["score"] == max(reply["scores"].values()) == reply["scores"][reply["label"]]
    assert math.isclose(sum(reply["scores"].values()), 1.0)


def test_a_regression_is_scaled_back_to_the_units_of_its_labels() -> None:
    """Users would otherwise see numbers in [0, 1] where they gave stars from 2 to 6."""
    np.testing.assert_allclose(probabilities([[0.0], [0.25], [1.5]], NUMBER), [[2.0], [3.0], [8.0]])
    np.testing.assert_allclose(decide([[0.0], [0.25]], NUMBER), [2.0, 3.0])
    assert answer([0.25], NUMBER) == {"value": 3.0}


def test_each_label_is_held_against_its_own_threshold() -> None:
    """One threshold for all would silently undo the others' tuning; equality counts as present."""
    tuned = TaskSpec(name="many", type="multilabel", labels=LABELS, thresholds=(0.5, 0.2, 0.9))
    logits = [[0.0, -1.0, 2.0]]
    assert decide(logits, tuned).tolist() == [[True, True, False]]
    assert decide(logits, MANY).tolist() == [[True, False, True]]
    assert answer(logits[0], tuned)["labels"] == ["a", "b"]


def test_decisions_have_the_shapes_and_types_that_metrics_expect() -> None:
    """Metrics would broadcast a [batch, 1] column against [batch] labels without a word."""
    assert decide([[0.0, 2.0, 1.0]] * 4, CHOICE).tolist() == [1, 1, 1, 1]
    assert decide([[0.0, 2.0, 1.0]], CHOICE).dtype == np.int64
    assert decide([[0.0]] * 4, NUMBER).shape == (4,)


def test_top_k_keeps_the_highest_scores_highest_first() -> None:
    """A cut by label order would hide the answer itself."""
    reply = answer([0.0, 3.0, 1.0], CHOICE, top_k=2)
    assert list(reply["scores"]) == ["b", "c"]
    assert list(answer([0.0, 3.0, 1.0], MANY, top_k=1)["scores"]) == ["b"]
    assert list(answer([0.0, 3.0, 1.0], CHOICE, top_k=9)["scores"]) == ["b", "c", "a"]


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_below_one_is_refused(top_k: int) -> None:
    """A slice by -1 would drop the last label and look right."""
    with pytest.raises(UserError, match="at least 1"):
        answer([0.0, 1.0, 2.0], CHOICE, top_k=top_k)


@pytest.mark.parametrize(("field", "value"), [("thresholds", (0.5,)), ("temperature", 0.0), ("temperature", -1.0)])
def test_a_task_that_cannot_be_answered_is_refused_when_it_is_made(field: str, value: object) -> None:
    """One threshold for three labels would broadcast; a negative temperature would turn answers around."""
    with pytest.raises(ValueError, match="many"):
        TaskSpec(**{"name": "many", "type": "multilabel", "labels": LABELS, field: value})  # type: ignore[arg-type]
