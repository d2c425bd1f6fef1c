"""Labelled texts of one task: what artifacts are measured on, and what quantisation learns its ranges from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from export.statistics import Metric
from serving.errors import UserError
from serving.manifest import TaskSpec


@dataclass(frozen=True)
class Sample:
    """Labelled texts of one task.

    Attributes:
        texts: each of one string, or two for pairs.
        labels: [rows, ...], in the form that the metric takes (original units for a regression).
        metric: metric(labels, decisions), larger is better; decisions as `serving.answers.decide` gives them.
        label_names: names of the labels in the order of their numbers, held against the names that the graph's
            outputs get: numbers alone cannot show that two names were swapped. None: the caller vouches for it.
        fits_temperature: whether the temperature of the task's probabilities is fitted on them.
    """

    texts: Sequence[tuple[str, ...]]
    labels: NDArray[Any]
    metric: Metric
    label_names: tuple[str, ...] | None = None
    fits_temperature: bool = True

    def first(self, rows: int) -> Sample:
        """At most so many rows, evenly picked."""
        step = max(1, len(self.texts) // rows)
        picked = slice(0, rows * step, step)
        return replace(self, texts=self.texts[picked], labels=self.labels[picked])


def check_samples(tasks: Sequence[TaskSpec], samples: Mapping[str, Sample]) -> None:
    """UserError for a task without labelled texts, or whose labels are called otherwise than its texts' labels."""
    for task in tasks:
        sample = samples.get(task.name)
        if sample is None or not len(sample.texts) or len(sample.texts) != len(sample.labels):
            raise UserError(
                f"task '{task.name}' has no labelled validation texts to measure on. Give a validation split."
            )
        if sample.label_names is not None and sample.label_names != task.labels:
            raise UserError(
                f"the candidate's labels of task '{task.name}' are {', '.join(task.labels)}, but those of its "
                f"validation texts are {', '.join(sample.label_names)}. Run the export stage again."
            )
