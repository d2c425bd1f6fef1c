"""How far the logits and answers of two models lie apart, on the same padded batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from export.parity.checked import NO_LOGIT, CheckedRunner
from export.parity.shapes import shape_of, shaped_batches, spread
from export.runners import Runner
from serving.answers import decide
from serving.claims import Parity
from serving.manifest import TaskSpec
from serving.tokenise import TextEncoder

REGRESSION_AGREEMENT = 0.01
"""Two values of a regression count as the same answer within this share of the training labels' range."""


def compare(
    reference: Runner,
    candidate: Runner,
    encoder: TextEncoder,
    texts: Sequence[tuple[str, ...]],
    tasks: Sequence[TaskSpec],
) -> dict[str, Parity]:
    """Run the same padded batches through both and measure how the logits differ.

    Args:
        reference: the torch student.
        candidate: a graph.
        encoder: tokenises and pads for both.
        texts: real ones, of varied lengths; a few dozen do.
        tasks: the outputs to compare.

    Returns:
        Per task. The difference is `NO_LOGIT` where the graph failed, or gave NaN, infinity or another shape.

    Raises:
        UserError: no texts.
    """
    encodings = spread(encoder, texts)
    batches = list(shaped_batches(encoder, encodings))
    checked = CheckedRunner(candidate, tasks)
    pairs = [(reference(inputs), checked(inputs)) for inputs in batches]
    shapes = tuple(dict.fromkeys(map(shape_of, batches)))
    return {
        task.name: parity_of(
            task,
            [expected[task.name] for expected, _ in pairs],
            [given[task.name] for _, given in pairs],
            num_texts=len(encodings),
            shapes=shapes,
        )
        for task in tasks
    }


def parity_of(
    task: TaskSpec,
    expected: Sequence[NDArray[np.float32]],
    given: Sequence[NDArray[np.float32]],
    *,
    num_texts: int,
    shapes: tuple[tuple[int, int], ...],
) -> Parity:
    """Differences of one task's logits, batch by batch.

    Args:
        task: how the logits are read.
        expected: per batch [rows, outputs].
        given: the same batches, `NO_LOGIT` where there is none.
        num_texts: number of different texts in them.
        shapes: the (batch, tokens) shapes that were run.
    """
    reference, logits = np.concatenate(expected), np.concatenate(given)
    values = np.abs(logits.astype(np.float64) - reference)
    return Parity(
        max_difference=min(float(values.max()), float(NO_LOGIT)),
        mean_difference=min(float(values.mean()), float(NO_LOGIT)),
        agreement=float(same_answers(task, reference, logits).mean()),
        texts=num_texts,
        shapes=shapes,
    )


def same_answers(task: TaskSpec, expected: NDArray[np.float32], given: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Per row whether both logits say the same; a row without logits agrees with nothing.

    Args:
        task: classification: the same label; multilabel: the same labels, all of them; regression: within
            `REGRESSION_AGREEMENT`.
        expected: [rows, outputs].
        given: [rows, outputs].

    Returns:
        bool [rows].
    """
    is_given = (given < NO_LOGIT).all(axis=1)
    if task.type == "regression":
        return np.asarray(is_given & (np.abs(given - expected)[:, 0] <= REGRESSION_AGREEMENT))
    same = np.asarray(decide(expected, task) == decide(given, task))
    return np.asarray(is_given & (same.all(axis=1) if same.ndim > 1 else same))
