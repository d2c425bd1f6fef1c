"""Labelled rows of a split in the form that exports are measured on."""

from __future__ import annotations

from compressor.data.splits import TaskData
from compressor.tasks.registry import TASKS
from export.sample import Sample


def sample_of(data: TaskData, split: str) -> Sample:
    """A split's texts and labels, with the metric that the task is judged by."""
    rows = data.splits[split]
    if rows.labels is None:
        raise RuntimeError(f"the {split} split of task '{data.task.name}' has no labels")
    metric = TASKS[data.task.type].metrics[data.task.metric]
    return Sample(rows.texts, rows.labels, metric, label_names=data.task.labels)
