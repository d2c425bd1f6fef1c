"""Joining finished students: the mean of their weights (`avg`), and whether that mean can be taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors import safe_open

from compressor.data.splits import TaskData
from compressor.distillation.averaging import mean_state, shape_difference
from compressor.distillation.training import DECISION_FILE, HISTORY_FILE
from compressor.models.checkpoint import load_checkpoint, load_with_tokenizer, read_tasks, save_checkpoint
from compressor.pipeline.stages import STAGE_FILE, read_json, write_json
from serving.errors import UserError

INITIAL_WEIGHTS = "initial_weights"
STUDENT_LINK = "student"
_TEACH_TOGETHER = "let their answers teach one student (teacher: {model: [A, B], train: false})"


def average_students(folder: Path, members: Sequence[Path]) -> None:
    """Write the mean of some students as a student: a checkpoint with its tokenizer and `history.json`.

    Args:
        folder: of the new student.
        members: folders of two or more finished students.

    Raises:
        UserError: they differ in architecture, tasks or initial weights.
    """
    check_can_be_averaged(members)
    model, tokenizer = load_with_tokenizer(members[0])
    model.load_state_dict(mean_state(load_checkpoint(member).state_dict() for member in members))
    save_checkpoint(folder, model, tokenizer)
    write_json(folder / HISTORY_FILE, joint_history(members))


def joint_history(members: Sequence[Path]) -> dict[str, Any]:
    """What is told of an average: of every run its own history, order seed and folder."""
    histories = [training_facts(member) or {} for member in members]
    return {
        "kept": "avg",
        INITIAL_WEIGHTS: histories[0].get(INITIAL_WEIGHTS),
        "steps": sum(history.get("steps", 0) for history in histories),
        "seconds": sum(history.get("seconds", 0.0) for history in histories),
        "runs": [
            {**history, "folder": member.resolve().name, "order_seed": _order_seed(member)}
            for member, history in zip(members, histories, strict=True)
        ],
    }


def training_facts(folder: Path) -> dict[str, Any] | None:
    """What is recorded of the training of a checkpoint, its decisions included; None if it was not trained here."""
    if not (folder / HISTORY_FILE).is_file():
        return None
    decision = read_json(folder / DECISION_FILE) if (folder / DECISION_FILE).is_file() else {}
    return {**read_json(folder / HISTORY_FILE), **decision}


def check_can_be_averaged(members: Sequence[Path]) -> None:
    """UserError if the mean of some students' weights would mean nothing; reads no weights."""
    check_are_students(members)
    check_same_tasks(members)
    for first, second in pairwise(members):
        _check_architectures(first, second)
    starts = [_initial_weights(member) for member in members]
    for member, start in zip(members, starts, strict=True):
        if start != starts[0]:
            raise UserError(
                f"the students '{members[0]}' and '{member}' started from different initial weights, and the mean of "
                "such weights is no model. Train them with the same seed and checkpoint and another order_seed, or "
                f"{_TEACH_TOGETHER}."
            )


def check_are_students(members: Sequence[Path]) -> None:
    """UserError if one of the folders is not there, or is a run and not the student in it."""
    for member in members:
        if not member.is_dir():
            raise UserError(f"avg.of names '{member}', but there is no such folder. Give folders of finished students.")
        if (member / STUDENT_LINK).is_dir():
            raise UserError(f"avg.of names the run '{member}'. Give the student in it: '{member / STUDENT_LINK}'.")


def check_same_tasks(members: Sequence[Path]) -> None:
    """UserError if some folders are no students of this project, or answer different tasks or labels."""
    first = [(task.name, task.type, task.labels) for task in read_tasks(members[0])]
    for member in members[1:]:
        own = [(task.name, task.type, task.labels) for task in read_tasks(member)]
        if own != first:
            raise UserError(
                f"the students '{members[0]}' and '{member}' answer different tasks or labels. "
                "Give students that were trained on the same data."
            )


def check_fits_data(members: Sequence[Path], data: Mapping[str, TaskData]) -> None:
    """UserError if given students do not answer the tasks and labels of the data."""
    wanted = [(name, task.task.labels) for name, task in data.items()]
    for member in members:
        if [(task.name, task.labels) for task in read_tasks(member)] != wanted:
            raise UserError(
                f"the student '{member}' does not answer the tasks of this recipe with the labels of its data. "
                "Give students that were trained on the same data."
            )


def _check_architectures(first: Path, second: Path) -> None:
    difference = shape_difference(_stored_shapes(first), _stored_shapes(second))
    kinds = [read_json(folder / "config.json").get("model_type") for folder in (first, second)]
    if difference is None and kinds[0] != kinds[1]:
        difference = f"one is a {kinds[0]}, the other a {kinds[1]}"
    if difference:
        raise UserError(
            f"the students '{first}' and '{second}' have different architectures: {difference}. "
            f"The mean of weights needs students of one shape; {_TEACH_TOGETHER}."
        )


def _stored_shapes(folder: Path) -> dict[str, Sequence[int]]:
    """Shape of every tensor in a checkpoint's files, from their headers."""
    shapes: dict[str, Sequence[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes |= {f"{path.name}:{name}": file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return shapes


def _initial_weights(folder: Path) -> str:
    history = training_facts(folder) or {}
    if not history.get(INITIAL_WEIGHTS):
        raise UserError(
            f"'{folder}' does not record the initial weights of its training, so nobody can say whether the mean with "
            f"another student is a model. Give students that this program trained, or {_TEACH_TOGETHER}."
        )
    return str(history[INITIAL_WEIGHTS])


def _order_seed(folder: Path) -> int | None:
    stage = folder / STAGE_FILE
    found: int | None = read_json(stage)["fields"].get("order_seed") if stage.is_file() else None
    return found
