"""Labelled texts for the tasks of a bundle, from the options `--data`, `--text` and `--label`.

Each option names the task it is for as TASK=VALUE. A bundle of one task needs no name, and `--text` and `--label`
without one hold for every task whose data are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressor.data.loading import load_task
from compressor.data.splits import TEST, TRAIN, VALIDATION, TaskData
from compressor.progress import announce
from compressor.recipe import TaskSettings
from compressor.tasks.registry import TASKS
from export.sample import Sample
from serving.errors import UserError
from serving.manifest import Manifest, TaskSpec


@dataclass(frozen=True)
class LabelledTexts:
    """What was given on the command line.

    Attributes:
        data: sources of labelled rows, as in a recipe's `tasks.*.data`; FILE or TASK=FILE.
        text: text columns; COLUMN or TASK=COLUMN, twice for pairs.
        label: label columns; COLUMN or TASK=COLUMN.
    """

    data: Sequence[str]
    text: Sequence[str] = ()
    label: Sequence[str] = ()


def labelled_samples(manifest: Manifest, given: LabelledTexts) -> dict[str, Sample]:
    """The labelled rows of every task that data were given for, labels in the bundle's order.

    Raises:
        UserError: data that name no task of several, two sources for one task, columns for a task without data, a
            label that the bundle does not know, pairs for a bundle that reads single texts or the reverse.
    """
    tasks = {task.name: task for task in manifest.tasks}
    sources = _sources(given.data, list(tasks))
    text, label = (by_task(values, list(tasks)) for values in (given.text, given.label))
    _check_columns(given, sources, list(tasks))
    settings = {
        name: TaskSettings.model_validate(
            {"data": source, "text": text[name] or None, "label": _one(label[name], name), "type": tasks[name].type}
        )
        for name, source in sources.items()
    }
    return {name: _sample(tasks[name], settings[name], manifest.inputs.text_columns) for name in sources}


def by_task(values: Sequence[str], tasks: Sequence[str]) -> dict[str, list[str]]:
    """Per task the values given for it as TASK=VALUE or, where there is none, those that name no task."""
    split = [_split(value, tasks) for value in values]
    common = [value for name, value in split if name is None]
    return {task: [value for name, value in split if name == task] or common for task in tasks}


def labelled_sample(
    data: TaskData, spec: TaskSpec, splits: Sequence[str] = (VALIDATION, TEST, TRAIN), purpose: str = "measuring"
) -> Sample:
    """The rows of the first split that there is, labels in the model's order; a single file is all train."""
    split = next(name for name in splits if name in data.splits)
    rows = data.splits[split]
    if rows.labels is None:
        raise RuntimeError(f"the {split} split has no labels")
    announce(f"{purpose} {spec.name} on {len(rows)} rows ({split})")
    labels = _in_order_of(rows.labels, data.task, spec)
    return Sample(rows.texts, labels, TASKS[spec.type].metrics[spec.metric], label_names=spec.labels)


def _split(value: str, tasks: Sequence[str]) -> tuple[str | None, str]:
    """The task that a value names, None where it names none, and the rest."""
    name, sign, rest = value.partition("=")
    return (name, rest) if sign and name in tasks else (None, value)


def _sources(data: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """One source per task that data were given for."""
    found: dict[str, str] = {}
    for value in data:
        name, source = _split(value, tasks)
        if name is None and len(tasks) > 1:
            raise UserError(
                f"--data '{value}' names none of the bundle's tasks {', '.join(tasks)}. Say whose labels it holds: "
                f"--data {tasks[0]}=FILE; give it again for another task."
            )
        task = name or tasks[0]
        if task in found:
            raise UserError(f"--data was given twice for task '{task}': '{found[task]}' and '{source}'. Give one.")
        found[task] = source
    return {task: found[task] for task in tasks if task in found}


def _check_columns(given: LabelledTexts, sources: Mapping[str, str], tasks: Sequence[str]) -> None:
    """UserError for a column of a task without data: it would be ignored."""
    for option, values in (("--text", given.text), ("--label", given.label)):
        for name, value in (_split(value, tasks) for value in values):
            if name is not None and name not in sources:
                raise UserError(f"{option} {name}={value} is for a task without data. Give --data {name}=FILE too.")


def _one(columns: Sequence[str], task: str) -> str | None:
    if len(columns) > 1:
        raise UserError(f"--label was given {len(columns)} times for task '{task}': {', '.join(columns)}. Give one.")
    return columns[0] if columns else None


def _sample(task: TaskSpec, settings: TaskSettings, columns: Sequence[str]) -> Sample:
    loaded = load_task(task.name, settings, output=task.output)
    if len(loaded.text_columns) != len(columns):
        read = "single texts" if len(columns) == 1 else "pairs of texts"
        raise UserError(
            f"the bundle reads {read} ({', '.join(columns)}), but for task '{task.name}' the text columns are "
            f"{', '.join(loaded.text_columns)}. Name the right ones: --text {' --text '.join(columns)}"
        )
    if unknown := [name for name in loaded.task.labels if name not in task.labels]:
        raise UserError(
            f"the data of task '{task.name}' have the label {unknown[0]!r}, which the bundle does not know "
            f"({', '.join(task.labels)}). Name the right column: --label {task.name}=COLUMN"
        )
    return labelled_sample(loaded, task)


def _in_order_of(labels: np.ndarray, data: TaskSpec, model: TaskSpec) -> np.ndarray:
    """Labels encoded by the data's order, encoded by the model's."""
    if data.type == "regression":
        return labels
    places = np.array([model.labels.index(name) for name in data.labels])
    if data.type == "classification":
        moved: np.ndarray = places[labels]
        return moved
    matrix = np.zeros((len(labels), len(model.labels)), dtype=labels.dtype)
    matrix[:, places] = labels
    return matrix
