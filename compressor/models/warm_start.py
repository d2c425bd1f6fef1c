"""Warm start: a student that begins where an earlier student ended, the heads that still fit included.

`student.model` may be the folder of an earlier student. Its encoder is read as any checkpoint's is. The head of a task
that the earlier student answered under the same name, type and labels is taken as well, its outputs put into the new
order of the labels, those of a regression into the new range; every other head stays fresh.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compressor.models.checkpoint import HEADS_FILE, TASKS_FILE, load_checkpoint, read_tasks
from compressor.models.initialise import keep_outputs, last_linear
from compressor.models.task_model import TaskModel
from serving.errors import UserError
from serving.manifest import TaskSpec

Range = tuple[float, float]


@dataclass(frozen=True)
class HeadOrigin:
    """Where the head of one task comes from.

    Attributes:
        task: its name.
        is_copied: whether it is the earlier student's; else it is fresh.
        detail: what was done to it, or why it is fresh.
    """

    task: str
    is_copied: bool
    detail: str

    def __str__(self) -> str:
        """One line for people."""
        what = "head taken from the earlier student" if self.is_copied else "fresh head"
        return f"{self.task}: {what}" + (f", {self.detail}" if self.detail else "")


def is_warm_start(model: str | None) -> bool:
    """Whether `student.model` names a checkpoint of this program, whose heads may be taken; None names nothing."""
    return model is not None and (Path(model) / TASKS_FILE).is_file()


def check_warm_start(start: Path) -> None:
    """Find out before anything is trained whether the heads of an earlier student are there.

    Raises:
        UserError: the list of its tasks is damaged, or the file of its heads is missing.
    """
    tasks = read_tasks(start)
    if len(tasks) > 1 and not (start / HEADS_FILE).is_file():
        raise UserError(
            f"the student '{start}' of {len(tasks)} tasks has no {HEADS_FILE}. Copy its whole folder, or delete its "
            f"{TASKS_FILE} to take the encoder alone."
        )


def take_heads(student: TaskModel, start: Path) -> list[HeadOrigin]:
    """Replace a new student's fresh heads by those of an earlier one where they fit, in place.

    Args:
        student: its encoder comes from the same folder.
        start: folder of the earlier student.

    Returns:
        One entry per task of the new student.

    Raises:
        UserError: the folder is damaged.
    """
    earlier = load_checkpoint(start)
    before = {task.name: task for task in earlier.tasks}
    origins = [_origin(task, earlier.tasks) for task in student.tasks]
    for task, origin in zip(student.tasks, origins, strict=True):
        if origin.is_copied:
            head = earlier.head(task.name)
            _fit(head, before[task.name], task)
            student.head(task.name).load_state_dict(head.state_dict())
    return origins


def _origin(task: TaskSpec, earlier: tuple[TaskSpec, ...]) -> HeadOrigin:
    before = next((known for known in earlier if known.name == task.name), None)
    if before is None:
        return HeadOrigin(task.name, False, f"the earlier student answers {', '.join(t.name for t in earlier)}")
    if before.type != task.type:
        return HeadOrigin(task.name, False, f"there it was a {before.type}, here it is a {task.type}")
    if set(before.labels) != set(task.labels):
        return HeadOrigin(task.name, False, _difference(before.labels, task.labels))
    return HeadOrigin(task.name, True, _change(before, task))


def _difference(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    parts = {
        "new": [label for label in now if label not in before],
        "gone": [label for label in before if label not in now],
    }
    named = [f"{len(labels)} {what} (such as {labels[0]!r})" for what, labels in parts.items() if labels]
    return f"its labels are others: {', '.join(named)}"


def _change(before: TaskSpec, now: TaskSpec) -> str:
    if before.labels != now.labels:
        return "its outputs in the new order of the labels"
    if before.range != now.range:
        old, new = (" to ".join(f"{end:g}" for end in task.range) for task in (before, now))
        return f"its values moved from the range {old} to {new}"
    return ""


def _fit(head: nn.Module, before: TaskSpec, now: TaskSpec) -> None:
    """Put a head's outputs into the new order or range, in place: it says the same as before."""
    if before.labels != now.labels:
        keep_outputs(head, [before.labels.index(label) for label in now.labels])
    if before.range != now.range:
        _move_range(last_linear(head), before.range, now.range)


def _move_range(linear: nn.Linear, before: Range, now: Range) -> None:
    """Let logits in units of one range of labels say the same values in units of another."""
    scale = (before[1] - before[0]) / (now[1] - now[0])
    shift = (before[0] - now[0]) / (now[1] - now[0])
    with torch.no_grad():
        linear.weight.mul_(scale)
        linear.bias.mul_(scale).add_(shift)
