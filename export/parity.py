"""How far a graph's logits lie from the torch student's, on real texts, in the shapes that break exports.

A graph may be right for the batch it was traced with and wrong elsewhere. Each shape run here shows a defect
of its own: one text alone, odd batches, short beside long texts, more padding than any text needs, the
longest input the model takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from export.runners import Inputs, Runner
from serving.answers import decide
from serving.errors import UserError
from serving.manifest import Parity, TaskSpec
from serving.tokenise import Encoding, TextEncoder

NUM_ALONE = 24
ODD_BATCH = 7
EXTRA_PADDING = 5
INVARIANCE_LIMIT = 1e-5
REGRESSION_AGREEMENT = 0.01
"""Two values of a regression count as the same answer within this share of the training labels' range."""

NO_LOGIT = np.finfo(np.float32).max
"""Stands where a graph gave no finite logit; JSON has no infinity."""


@dataclass
class _Differences:
    """Absolute logit differences of one task, batch by batch."""

    values: list[NDArray[np.float32]] = field(default_factory=list)
    agreements: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, task: TaskSpec, expected: NDArray[np.float32], given: NDArray[np.float32]) -> None:
        self.values.append(np.abs(given - expected).ravel())
        self.agreements.append(_same_answers(task, expected, given))

    def summary(self, num_texts: int, shapes: tuple[tuple[int, int], ...]) -> Parity:
        values = np.concatenate(self.values)
        return Parity(
            max_difference=float(values.max()),
            mean_difference=float(values.mean(dtype=np.float64)),
            agreement=float(np.concatenate(self.agreements).mean()),
            texts=num_texts,
            shapes=shapes,
        )


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
    encodings = _spread(encoder, texts)
    differences = {task.name: _Differences() for task in tasks}
    shapes: list[tuple[int, int]] = []
    for inputs in shaped_batches(encoder, encodings):
        batch, tokens = inputs["input_ids"].shape
        shapes.append((batch, tokens))
        expected, given = reference(inputs), _run_or_nothing(candidate, inputs)
        for task in tasks:
            shape = (batch, task.num_outputs)
            ours, theirs = expected[task.name], _in_shape(given.get(task.name), shape)
            differences[task.name].add(task, ours, theirs)
    seen = tuple(dict.fromkeys(shapes))
    return {name: found.summary(len(encodings), seen) for name, found in differences.items()}


def measure_batch_difference(
    run: Runner, encoder: TextEncoder, texts: Sequence[tuple[str, ...]], tasks: Sequence[TaskSpec]
) -> float:
    """Largest logit difference of a text alone against the same text among others and with more padding.

    Args:
        run: a graph.
        encoder: tokenises and pads.
        texts: real ones, of varied lengths.
        tasks: the outputs to compare.

    Returns:
        In logits, over all texts and tasks: fp32 stays within `INVARIANCE_LIMIT`, dynamic int8 does not.
    """
    encodings = _spread(encoder, texts)
    alone = [run(encoder.batch([encoding])) for encoding in encodings]
    worst = 0.0
    for rows in _mixed_rows(len(encodings)):
        together = run(_padded(encoder, [encodings[row] for row in rows], EXTRA_PADDING))
        for place, row in enumerate(rows):
            for task in tasks:
                difference = np.abs(together[task.name][place] - alone[row][task.name][0]).max()
                worst = max(worst, float(difference))
    return worst


def shaped_batches(encoder: TextEncoder, encodings: Sequence[Encoding]) -> Iterator[Inputs]:
    """The batches of a comparison: alone, odd, mixed lengths, too much padding, longest.

    Args:
        encoder: pads.
        encodings: at least one, shortest first.
    """
    for encoding in encodings:
        yield encoder.batch([encoding])
    for start in range(0, len(encodings), ODD_BATCH):
        yield encoder.batch(encodings[start : start + ODD_BATCH])
    for rows in _mixed_rows(len(encodings)):
        yield _padded(encoder, [encodings[row] for row in rows], EXTRA_PADDING)
    longest = _longest(encoder, encodings)
    yield encoder.batch([longest])
    yield encoder.batch([longest, encodings[0], encodings[len(encodings) // 2]])


def _spread(encoder: TextEncoder, texts: Sequence[tuple[str, ...]]) -> list[Encoding]:
    """Encoded texts from the shortest to the longest, evenly picked, at most `NUM_ALONE`."""
    if not texts:
        raise UserError("there are no texts to compare the graphs on. Give at least one real text.")
    encodings = sorted(encoder.encode(texts), key=len)
    picks = np.linspace(0, len(encodings) - 1, num=min(NUM_ALONE, len(encodings))).round().astype(int)
    return [encodings[pick] for pick in picks]


def _mixed_rows(num_rows: int) -> Iterator[list[int]]:
    """Batches that put the shortest beside the longest; every row is in one of them."""
    outside_in = [row for pair in zip(range(num_rows), reversed(range(num_rows)), strict=True) for row in pair]
    order = list(dict.fromkeys(outside_in))
    for start in range(0, num_rows, ODD_BATCH + 1):
        yield order[start : start + ODD_BATCH + 1]


def _padded(encoder: TextEncoder, encodings: Sequence[Encoding], extra: int) -> Inputs:
    """A batch with more padding than its longest text needs, up to the model's longest input."""
    padding = {
        "input_ids": encoder.inputs.pad_id,
        "attention_mask": 0,
        "token_type_ids": encoder.inputs.pad_token_type_id,
    }
    batch = encoder.batch(encodings)
    width = next(iter(batch.values())).shape[1]
    extra = max(0, min(extra, encoder.inputs.max_length - width))
    return {name: np.pad(array, ((0, 0), (0, extra)), constant_values=padding[name]) for name, array in batch.items()}


def _longest(encoder: TextEncoder, encodings: Sequence[Encoding]) -> Encoding:
    """An input of exactly `max_length` tokens: the longest text, its tokens repeated where it is shorter."""
    longest = encodings[-1]
    length = encoder.inputs.max_length
    middle = range(1, max(2, len(longest) - 1))
    picks = [0, *(middle[place % len(middle)] for place in range(length - 2)), len(longest) - 1][:length]
    return Encoding(
        input_ids=[longest.input_ids[pick] for pick in picks],
        token_type_ids=sorted(longest.token_type_ids[pick] for pick in picks),
        was_truncated=False,
    )


def _run_or_nothing(run: Runner, inputs: Mapping[str, NDArray[np.int64]]) -> Mapping[str, NDArray[np.float32]]:
    """A graph with a frozen axis cannot run other shapes at all; that is a difference, not a crash."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        return run(inputs)
    except (state.Fail, state.InvalidArgument, state.RuntimeException):
        return {}


def _in_shape(given: NDArray[np.float32] | None, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The logits, with `NO_LOGIT` where they are missing, in another shape or not finite."""
    if given is None or given.shape != shape:
        return np.full(shape, NO_LOGIT)
    return np.where(np.isfinite(given), given, NO_LOGIT)


def _same_answers(task: TaskSpec, expected: NDArray[np.float32], given: NDArray[np.float32]) -> NDArray[np.bool_]:
    is_given = (given < NO_LOGIT).all(axis=1)
    if task.type == "regression":
        return np.asarray(np.abs(given - expected)[:, 0] <= REGRESSION_AGREEMENT)
    same = np.asarray(decide(expected, task) == decide(given, task))
    return np.asarray(is_given & (same.all(axis=1) if same.ndim > 1 else same))
