"""Whether a text is answered the same alone, among others, at any place among them and with any padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from export.parity.checked import NO_LOGIT, CheckedRunner
from export.parity.difference import same_answers
from export.parity.shapes import EXTRA_PADDING, mixed_rows, padded, spread
from export.runners import Inputs, Logits, Runner
from serving.claims import Invariance
from serving.manifest import TaskSpec
from serving.tokenise import Encoding, TextEncoder

INVARIANCE_LIMIT = 1e-5
"""Largest logit difference, alone against in company, of a graph that counts as invariant."""


def measure_invariance(
    run: Runner, encoder: TextEncoder, texts: Sequence[tuple[str, ...]], tasks: Sequence[TaskSpec]
) -> dict[str, Invariance]:
    """Answer each text alone, and again in every arrangement with others.

    Args:
        run: a graph.
        encoder: tokenises and pads.
        texts: real ones, of varied lengths; two dozen of them are picked.
        tasks: the outputs to compare.

    Returns:
        Per task. The difference is `NO_LOGIT` where the graph failed in any arrangement.

    Raises:
        UserError: no texts.
    """
    encodings = spread(encoder, texts)
    checked = CheckedRunner(run, tasks)
    alone = [checked(encoder.batch([encoding])) for encoding in encodings]
    together = [(rows, checked(inputs)) for rows, inputs in arrangements(encoder, encodings)]
    found = {task.name: _invariance_of(task, alone, together) for task in tasks}
    return {name: one if checked.problem is None else _without_answers(one) for name, one in found.items()}


def measure_batch_difference(
    run: Runner, encoder: TextEncoder, texts: Sequence[tuple[str, ...]], tasks: Sequence[TaskSpec]
) -> float:
    """Largest logit difference of `measure_invariance` over all tasks: fp32 stays within `INVARIANCE_LIMIT`."""
    return largest_difference(measure_invariance(run, encoder, texts, tasks))


def largest_difference(found: dict[str, Invariance]) -> float:
    """Over all tasks, in logits."""
    return max(one.max_difference for one in found.values())


def arrangements(encoder: TextEncoder, encodings: Sequence[Encoding]) -> Iterator[tuple[list[int], Inputs]]:
    """Batches of mixed lengths with the rows that are in them.

    Every text comes in a batch as short as can be, in one with a little padding and in one padded to the model's
    longest input; the first batch comes once more with every text at every place.
    """
    for number, rows in enumerate(mixed_rows(len(encodings))):
        for extra in (0, EXTRA_PADDING, encoder.inputs.max_length):
            yield rows, padded(encoder, [encodings[row] for row in rows], extra)
        for turn in range(1, len(rows) if number == 0 else 1):
            turned = rows[turn:] + rows[:turn]
            yield turned, encoder.batch([encodings[row] for row in turned])


def _invariance_of(task: TaskSpec, alone: Sequence[Logits], together: Sequence[tuple[list[int], Logits]]) -> Invariance:
    worst, changed = 0.0, set()
    for rows, logits in together:
        expected = np.concatenate([alone[row][task.name] for row in rows])
        given = logits[task.name]
        worst = max(worst, float(np.abs(given.astype(np.float64) - expected).max()))
        is_same = same_answers(task, expected, given)
        changed |= {row for row, same in zip(rows, is_same, strict=True) if not same}
    return Invariance(
        max_difference=min(worst, float(NO_LOGIT)),
        answers_changed=len(changed),
        texts=len(alone),
        placements=sum(len(rows) for rows, _ in together),
    )


def _without_answers(found: Invariance) -> Invariance:
    """A graph that gives nothing anywhere is the same everywhere; that must not look like a virtue."""
    return Invariance(
        max_difference=float(NO_LOGIT),
        answers_changed=found.texts,
        texts=found.texts,
        placements=found.placements,
    )
