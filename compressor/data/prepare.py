"""From a recipe's tasks to rows ready for training: read, carve what is missing, take out what leaks.

The order matters. Test comes first: carved where it is missing, then every row of train, validation, source and
unlabelled texts that is also a test text of any task is dropped. Validation is carved from what is left, so
that a leaked row is counted where it was found; then train, source and unlabelled are cleared of validation texts.
What `train_rows` leaves is drawn last: evaluation splits do not depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compressor.data.carving import (
    CARVING_SEED,
    TEST_SHARE,
    VALIDATION_SHARE,
    carve,
    group_by_text,
    groups_to_keep,
    strata_of,
)
from compressor.data.leakage import count_duplicates, text_keys
from compressor.data.loading import load_task
from compressor.data.sources import TaskSource
from compressor.data.splits import SOURCE, TEST, TRAIN, UNLABELLED, VALIDATION, Split, TaskData, with_range_of
from compressor.data.subset import draw_rows
from serving.errors import UserError
from serving.manifest import TaskSpec


def prepare(tasks: Mapping[str, TaskSource], *, seed: int = CARVING_SEED) -> dict[str, TaskData]:
    """Read and split the data of all tasks that share one student.

    Args:
        tasks: per task name, where its rows are.
        seed: of carved splits. It is not the training seed: all runs are judged on the same rows.

    Returns:
        Per task: train, validation and test (and unlabelled, and source), no text of an evaluation split in any
        training row of any task. `notices` and `dropped` say what was done.

    Raises:
        UserError: anything in the data that cannot be right.
    """
    outputs = {name: "logits" if len(tasks) == 1 else f"logits_{name}" for name in tasks}
    rows = [
        _Rows.of(load_task(name, settings, output=outputs[name]), _rows_named(settings))
        for name, settings in tasks.items()
    ]
    _carve_missing(rows, TEST, TEST_SHARE, seed)
    _drop_leaks(rows, TEST, (VALIDATION, TRAIN, UNLABELLED, SOURCE))
    _carve_missing(rows, VALIDATION, VALIDATION_SHARE, seed)
    _drop_leaks(rows, VALIDATION, (TRAIN, UNLABELLED, SOURCE))
    for task in rows:
        _drop_own_rows_from_source(task)
    for task, settings in zip(rows, tasks.values(), strict=True):
        if settings.train_rows is not None:
            _keep_some(task, settings.train_rows, settings.train_rows_seed)
    return {task.data.task.name: _finished(task) for task in rows}


@dataclass
class _Rows:
    """A task's rows while splits are cut: `data` as it was read, and what has become of its splits so far."""

    data: TaskData
    origin: str
    splits: dict[str, Split]
    keys: dict[str, np.ndarray]
    notices: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, data: TaskData, origin: str) -> _Rows:
        keys = {name: text_keys(split.texts) for name, split in data.splits.items()}
        return cls(data, origin, dict(data.splits), keys, list(data.notices), dict.fromkeys(data.splits, 0))

    def move(self, rows: np.ndarray, *, source: str, target: str | None) -> None:
        """Take the rows of a mask out of one split, into a new one or away."""
        split, keys = self.splits[source], self.keys[source]
        if target is not None:
            self.splits[target], self.keys[target] = split.select(rows), keys[rows]
        self.splits[source], self.keys[source] = split.select(~rows), keys[~rows]

    def drop(self, name: str, keys: Collection[str], *, also_in: str) -> None:
        """Drop the rows of a split whose key is among some, where there is such a split; count and say so."""
        if name not in self.splits:
            return
        dropped = np.array([key in keys for key in self.keys[name]], dtype=bool)
        if dropped.any():
            self.move(dropped, source=name, target=None)
            self.dropped[name] += int(dropped.sum())
            self.notices.append(f"{int(dropped.sum())} {name} rows were dropped: their text is also in {also_in}")


def _rows_named(settings: TaskSource) -> str:
    """Equal for tasks that read the same texts, whatever their labels: those are carved alike."""
    return json.dumps([settings.data, settings.text, dict(settings.where)], sort_keys=True, default=str)


def _carve_missing(tasks: Sequence[_Rows], name: str, share: float, seed: int) -> None:
    """Carve a split from train wherever it is missing; tasks over the same rows get the same ones."""
    alike: dict[str, list[_Rows]] = {}
    for task in tasks:
        if name not in task.splits:
            alike.setdefault(task.origin, []).append(task)
    for members in alike.values():
        trains = [task.splits[TRAIN] for task in members]
        types = [task.data.task.type for task in members]
        groups = group_by_text(trains[0].texts)
        kept = [groups_to_keep(groups, *pair, seed=seed) for pair in zip(trains, types, strict=True)]
        strata = [strata_of(*pair) for pair in zip(trains, types, strict=True)]
        chosen = carve(groups, strata, share, kept=np.concatenate(kept), seed=seed)
        for task in members:
            task.move(chosen, source=TRAIN, target=name)
            task.dropped.setdefault(name, 0)
            task.notices.append(
                f"there was no {name} split: {int(chosen.sum())} of {len(chosen)} train rows were set aside "
                f"for it (fixed seed, rows that share a text together, {int((~chosen).sum())} left in train)"
            )


def _drop_leaks(tasks: Sequence[_Rows], evaluation: str, splits: Sequence[str]) -> None:
    """Drop the rows of some splits whose text is in an evaluation split of any task; count and say so."""
    seen = {key for task in tasks for key in task.keys[evaluation]}
    of_which = " (of this or another task)" if len(tasks) > 1 else ""
    for task in tasks:
        for name in splits:
            task.drop(name, seen, also_in=f"{evaluation}{of_which}")


def _drop_own_rows_from_source(task: _Rows) -> None:
    """Take the task's own rows out of its source: they would bring back labels that `train_rows` takes away."""
    task.drop(SOURCE, set(task.keys[TRAIN]), also_in=TRAIN)


def _keep_some(task: _Rows, number: int, seed: int) -> None:
    """Keep so many labelled training rows, the others are not used; say so."""
    kept = draw_rows(task.splits[TRAIN], task.data.task, number, seed=seed)
    task.move(~kept, source=TRAIN, target=None)
    task.notices.append(
        f"train_rows: {number} of {len(kept)} train rows are used (in the labels' proportions, seed {seed}), the other "
        f"{len(kept) - number} are not"
    )


def _finished(rows: _Rows) -> TaskData:
    """The task with its final splits, its range, and the duplicates that stay in train counted."""
    spec = rows.data.task
    for name in (TRAIN, VALIDATION, TEST, SOURCE):
        if name in rows.splits and not len(rows.splits[name]):
            raise UserError(
                f"task '{spec.name}': no {name} row is left after {rows.dropped[name]} were dropped because "
                "their text is also in an evaluation split. Give splits that do not overlap."
            )
    task = _with_range(spec, rows.splits) if spec.type == "regression" else spec
    _check_labels_left(rows)
    return TaskData(
        task=task,
        splits=rows.splits,
        text_columns=rows.data.text_columns,
        notices=rows.notices + _duplicate_notices(rows),
        dropped=rows.dropped,
        sources={**rows.data.sources, "rows": {name: len(split) for name, split in rows.splits.items()}},
    )


def _with_range(task: TaskSpec, splits: Mapping[str, Split]) -> TaskSpec:
    """A regression's task with the range of its training labels; UserError where labels do not vary."""
    for name in (TRAIN, VALIDATION, TEST, SOURCE):
        if name not in splits:
            continue
        labels = np.asarray(splits[name].labels)
        if labels.min() == labels.max():
            raise UserError(
                f"task '{task.name}': every {name} label is {labels[0]:g}. Expected numbers that differ; "
                "check 'label', or leave that split out so that one is carved."
            )
    return with_range_of(task, splits[TRAIN])


def _check_labels_left(rows: _Rows) -> None:
    """UserError if dropping rows left a label without any train row."""
    task, labels = rows.data.task, np.asarray(rows.splits[TRAIN].labels)
    if task.type == "regression":
        return
    is_classes = task.type == "classification"
    counts = np.bincount(labels, minlength=len(task.labels)) if is_classes else labels.sum(axis=0)
    gone = [name for name, count in zip(task.labels, counts, strict=True) if not count]
    if gone:
        raise UserError(
            f"task '{task.name}': all train rows of {', '.join(gone)} were dropped because their texts are "
            "also in an evaluation split. Give train rows of their own."
        )


def _duplicate_notices(rows: _Rows) -> list[str]:
    repeated, conflicting = count_duplicates(rows.keys[TRAIN], np.asarray(rows.splits[TRAIN].labels))
    notices = []
    if repeated:
        notices.append(f"{repeated} train rows repeat the text of another one; they are kept")
    if conflicting:
        notices.append(f"{conflicting} train texts occur with different labels; they are kept")
    return notices
