"""One rung held against another: logits, answers, metric and churn on one task."""

from __future__ import annotations

import numpy as np

from export.churn import Churn, measure_churn
from export.parity.bench import Answers, Bench
from export.parity.rungs import Comparison
from export.statistics import paired_difference
from serving.claims import Interval


def compare_answers(bench: Bench, expected: Answers, given: Answers, task: str) -> Comparison:
    """How far two models lie apart; metric and churn only where both gave numbers everywhere."""
    parity = bench.parity(expected, given, task)
    if given.problem or expected.problem:
        return Comparison(parity=parity, metric_drop=None)
    drop, churn = _metric_drop(bench, expected, given, task), _churn(bench, expected, given, task)
    return Comparison(parity=parity, metric_drop=drop, churn=churn)


def _metric_drop(bench: Bench, expected: Answers, given: Answers, task: str) -> Interval | None:
    sample, metric = bench.samples[task], bench.tasks[task].metric
    first, second = bench.decisions(given, task), bench.decisions(expected, task)
    if np.array_equal(first, second):
        return Interval(metric=metric, value=0.0, low=0.0, high=0.0)
    value, low, high = paired_difference(sample.metric, sample.labels, first, second)
    return Interval(metric=metric, value=value, low=low, high=high) if np.isfinite([value, low, high]).all() else None


def _churn(bench: Bench, expected: Answers, given: Answers, task: str) -> Churn:
    before, after = bench.decisions(expected, task), bench.decisions(given, task)
    lengths = [len(encoding) for encoding in bench.encodings[task]]
    return measure_churn(bench.tasks[task], bench.samples[task].labels, before, after, lengths)
