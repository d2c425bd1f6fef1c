"""Invariance: what company, place and padding change, and that nothing broken looks invariant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.candidate import Candidate
from export.parity import INVARIANCE_LIMIT, NO_LOGIT, measure_batch_difference, measure_invariance
from export.parity.invariance import arrangements
from export.parity.shapes import spread
from export.runners import Inputs, Logits, Runner, session_runner
from serving.session import create_session
from serving.tokenise import TextEncoder
from tests.export.conftest import INTENT, MAX_LENGTH, make_texts


def lengths_runner() -> Runner:
    """Logits that depend on nothing but a text's own length."""

    def run(inputs: Inputs) -> Logits:
        own = inputs["attention_mask"].sum(axis=1, keepdims=True).astype(np.float32)
        return {"intent": np.concatenate([own, -own, np.zeros_like(own)], axis=1)}

    return run


def test_int8_depends_on_its_company_and_fp32_does_not(candidate: tuple[Path, Candidate], encoder: TextEncoder) -> None:
    """A server would batch int8 requests and give other answers than were measured."""
    found = {
        name: measure_invariance(
            session_runner(create_session(candidate[0] / f"model.{name}.onnx"), [INTENT]),
            encoder,
            make_texts(),
            [INTENT],
        )["intent"]
        for name in ("fp32", "int8")
    }

    assert found["fp32"].max_difference <= INVARIANCE_LIMIT
    assert found["fp32"].answers_changed == 0
    assert found["int8"].max_difference > 1e-3
    assert found["int8"].texts == 24


def test_every_text_comes_to_every_place_and_with_every_padding(encoder: TextEncoder) -> None:
    """A graph that is wrong for the last row, or from some padding on, must meet a text there."""
    encodings = spread(encoder, make_texts())
    batches = list(arrangements(encoder, encodings))

    first = batches[0][0]
    places = {(row, place) for rows, _ in batches if set(rows) == set(first) for place, row in enumerate(rows)}
    assert places == {(row, place) for row in first for place in range(len(first))}
    assert {row for rows, _ in batches for row in rows} == set(range(24))
    widths = {inputs["input_ids"].shape[1] for _, inputs in batches}
    assert max(widths) == MAX_LENGTH
    assert min(widths) < MAX_LENGTH or len(widths) == 1


def test_every_text_is_padded_a_little_and_to_the_longest_input(encoder: TextEncoder) -> None:
    """Short texts alone never reach the widths at which a graph with a table of positions goes wrong."""
    encodings = spread(encoder, [text for text in make_texts(80) if len(text[0].split()) < 6])
    longest = max(map(len, encodings))

    rows_at: dict[int, set[int]] = {}
    for rows, inputs in arrangements(encoder, encodings):
        rows_at.setdefault(inputs["input_ids"].shape[1], set()).update(rows)

    assert rows_at[MAX_LENGTH] == set(range(len(encodings)))
    assert any(longest < width < MAX_LENGTH for width in rows_at)


@pytest.mark.parametrize("what", ["neighbours", "place", "padding"])
def test_each_kind_of_dependence_is_found(encoder: TextEncoder, what: str) -> None:
    """Three different defects; a check of one of them alone would let the others pass."""

    def disturbed(inputs: Inputs) -> Logits:
        mask = inputs["attention_mask"]
        logits = lengths_runner()(inputs)["intent"]
        if what == "neighbours":
            logits[:, 2] += 0.5 * len(mask)
        elif what == "place":
            logits[:, 2] += 0.5 * np.arange(len(mask))
        else:
            logits[:, 2] += 0.5 * (mask == 0).sum(axis=1)
        return {"intent": logits}

    assert measure_batch_difference(disturbed, encoder, make_texts(), [INTENT]) >= 0.5
    assert measure_batch_difference(lengths_runner(), encoder, make_texts(), [INTENT]) == 0.0


def test_a_changed_answer_is_counted_once_per_text(encoder: TextEncoder) -> None:
    """A text that changes in ten arrangements is one text whose answer cannot be relied on."""

    def flips(inputs: Inputs) -> Logits:
        is_alone = len(inputs["input_ids"]) == 1
        row = [1.0, 0.0, 0.0] if is_alone else [0.0, 1.0, 0.0]
        return {"intent": np.tile(np.array(row, dtype=np.float32), (len(inputs["input_ids"]), 1))}

    found = measure_invariance(flips, encoder, make_texts(), [INTENT])["intent"]

    assert (found.answers_changed, found.texts) == (24, 24)
    assert found.max_difference == 1.0
    assert found.placements > 24 * 3


@pytest.mark.parametrize("broken_for", [lambda rows: True, lambda rows: rows > 1], ids=["always", "in company"])
def test_logits_that_are_no_numbers_are_not_invariant(encoder: TextEncoder, broken_for: object) -> None:
    """NaN equals nothing, and the larger of 0 and NaN is 0: it once looked like perfect invariance."""

    def nothing(inputs: Inputs) -> Logits:
        logits = lengths_runner()(inputs)["intent"]
        if broken_for(len(logits)):  # type: ignore[operator]
            logits[:] = np.nan
        return {"intent": logits}

    found = measure_invariance(nothing, encoder, make_texts(), [INTENT])["intent"]

    assert found.max_difference == NO_LOGIT
    assert found.answers_changed == found.texts
