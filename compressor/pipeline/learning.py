"""What the stages up to the student do: each reads folders and writes one.

`compressor.pipeline.graph` says in which order and with which keys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from compressor.data.prepare import prepare
from compressor.data.splits import (
    SOURCE,
    TRAIN,
    TaskData,
    concatenated,
    load_task_data,
    save_task_data,
    training_texts,
    with_range_of,
)
from compressor.distillation.plan import build_plan
from compressor.distillation.presets import label_of
from compressor.distillation.training import TrainingJob, train
from compressor.evaluation.figures import SPLITS
from compressor.models.checkpoint import load_checkpoint, only_tasks, with_tasks
from compressor.models.initialise import from_teacher, load_tokenizer, pretrained_model
from compressor.models.task_model import TaskModel
from compressor.models.teacher import import_teacher, stored_logits
from compressor.models.warm_start import is_warm_start, take_heads
from compressor.pipeline.added import AddedPlace, with_added
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import announce
from compressor.recipe import Recipe, TaskSettings, TeacherSettings, TrainingSettings
from serving.errors import UserError

ORDER_FILE = "order.json"
TARGETS_FILE = "targets.npy"
PREDICTIONS_FILE = "predictions.json"
WARM_START_FILE = "warm_start.json"


@dataclass(frozen=True)
class Seeds:
    """The two sources of chance in a training.

    Attributes:
        initial: of new heads.
        order: of data order and dropout.
    """

    initial: int
    order: int


@dataclass(frozen=True)
class TrainingContext:
    """What every training shares: settings, tokens per text, seeds."""

    settings: TrainingSettings
    max_length: int
    seeds: Seeds


def prepare_data(folder: Path, tasks: Mapping[str, TaskSettings]) -> None:
    """Read, split and clean the rows of all tasks; one folder per task."""
    prepared = prepare(tasks)
    _check_one_form(prepared)
    for name, data in prepared.items():
        save_task_data(folder / name, data)
        for notice in data.notices:
            announce(f"  {name}: {notice}")
    write_json(folder / ORDER_FILE, list(tasks))


def _check_one_form(tasks: Mapping[str, TaskData]) -> None:
    """UserError when some tasks read single texts and others pairs: one graph has one form of input."""
    forms = {len(data.text_columns): name for name, data in tasks.items()}
    if len(forms) > 1:
        raise UserError(
            f"task '{forms[1]}' reads single texts and task '{forms[2]}' pairs, but one student reads one form. "
            "Put them into recipes of their own."
        )


def load_data(folder: Path) -> dict[str, TaskData]:
    """The tasks that `prepare_data` wrote, in the recipe's order."""
    return {name: load_task_data(folder / name) for name in read_json(folder / ORDER_FILE)}


def load_some(folder: Path, tasks: Collection[str]) -> dict[str, TaskData]:
    """Some of the tasks that `prepare_data` wrote, in the order of all.

    A task that is left alone gets the output name that the graph of a single task has.
    """
    found = {name: load_task_data(folder / name) for name in read_json(folder / ORDER_FILE) if name in tasks}
    if len(found) == 1:
        ((name, data),) = found.items()
        found = {name: replace(data, task=msgspec.structs.replace(data.task, output="logits"))}
    return found


def with_source_rows(data: Mapping[str, TaskData], *, beside_own: bool = False) -> dict[str, TaskData]:
    """Tasks whose train rows are those of their source, or their own and the source's; without one their own."""
    return {name: _with_source_rows(task, beside_own) if SOURCE in task.splits else task for name, task in data.items()}


def _with_source_rows(data: TaskData, beside_own: bool) -> TaskData:
    own, source = data.splits[TRAIN], data.splits[SOURCE]
    if beside_own:
        return replace(data, splits={**data.splits, TRAIN: concatenated(own, source)})
    return replace(data, task=with_range_of(data.task, source), splits={**data.splits, TRAIN: source})


def train_teacher(
    folder: Path,
    data: Mapping[str, TaskData],
    model: str,
    context: TrainingContext,
    *,
    start: Path | None = None,
) -> None:
    """Fine-tune on the gold labels of one task, or of several that share the teacher.

    Args:
        folder: of the teacher.
        data: the tasks.
        model: the pretrained checkpoint.
        context: settings and seeds.
        start: the teacher after an earlier training, whose weights are taken instead of the pretrained ones.
    """
    tasks = [task.task for task in data.values()]
    job = TrainingJob(
        model=with_tasks(load_checkpoint(start), tasks)
        if start
        else pretrained_model(model, tasks, seed=context.seeds.initial),
        tokenizer=load_tokenizer(model),
        data=data,
        targets={},
        plan=build_plan({"none": {}}, patience=context.settings.early_stopping),
        settings=context.settings,
        max_length=context.max_length,
        seed=context.seeds.order,
        label="teacher",
    )
    train(job, folder)


def adopt_teacher(folder: Path, data: TaskData, settings: TeacherSettings) -> None:
    """Take a fine-tuned checkpoint as it is."""
    import_teacher(folder, settings, data.task)


def store_predictions(folder: Path, data: TaskData, settings: TeacherSettings) -> None:
    """Look up stored teacher probabilities for every split; train must be covered."""
    if settings.predictions is None:
        raise RuntimeError("no predictions to store")
    texts = {"training": training_texts(data), **{split: data.splits[split].texts for split in SPLITS}}
    for split, rows in texts.items():
        np.save(folder / f"{split}.npy", stored_logits(settings.predictions, rows, data.task, data.text_columns))
    missing = int(np.isnan(np.load(folder / "training.npy")).any(axis=1).sum())
    if missing:
        raise UserError(
            f"the teacher predictions '{settings.predictions}' have no row for {missing} of {len(texts['training'])} "
            f"training texts of task '{data.task.name}'. Store a prediction for every training text."
        )
    write_json(folder / PREDICTIONS_FILE, {"file": str(settings.predictions)})


def train_student(
    folder: Path,
    data: Mapping[str, TaskData],
    recipe: Recipe,
    *,
    targets: Mapping[str, Path],
    added: Mapping[str, AddedPlace],
    teacher: Path | None,
) -> None:
    """Train the student, a control of it, or one of several runs of it.

    Args:
        folder: of the student.
        data: the tasks.
        recipe: with the method and the order seed of this training.
        targets: per task the folder of `compute_targets`; empty where the method reads no teacher.
        added: per task that gets texts by its method, where they are.
        teacher: whose layers are copied, or None for the pretrained checkpoint's.
    """
    model = initial_student(data, recipe, teacher)
    if is_warm_start(recipe.student.model):
        _take_earlier_heads(model, recipe.student_model(), folder)
    logits = {task: np.load(path / TARGETS_FILE) for task, path in targets.items()}
    data, logits = with_added(data, logits, added)
    job = TrainingJob(
        model=model,
        tokenizer=load_tokenizer(recipe.student_model()),
        data=data,
        targets=logits,
        plan=build_plan(recipe.method, patience=recipe.training.early_stopping),
        settings=recipe.training,
        max_length=recipe.max_length,
        seed=recipe.student_order_seed,
        label=f"student ({label_of(recipe.method)})",
    )
    train(job, folder)


def initial_student(data: Mapping[str, TaskData], recipe: Recipe, teacher: Path | None) -> TaskModel:
    """A recipe's student before its training; `teacher` as `train_student` takes it."""
    tasks = [task.task for task in data.values()]
    if teacher is not None:
        return from_teacher(only_tasks(load_checkpoint(teacher), list(data)), tasks, layers=recipe.student.layers)
    return pretrained_model(recipe.student_model(), tasks, layers=recipe.student.layers, seed=recipe.seed)


def start_of(recipe: Recipe) -> str:
    """What a student starts from, for its key: `warm start` where it takes heads along, else `student.init`."""
    return "warm start" if is_warm_start(recipe.student.model) else recipe.student.init


def _take_earlier_heads(student: TaskModel, start: str, folder: Path) -> None:
    """Begin with the heads of an earlier student where they fit; say and write down which."""
    origins = take_heads(student, Path(start))
    announce(f"  starting from the student in {start}")
    for origin in origins:
        announce(f"  {origin}")
    write_json(folder / WARM_START_FILE, {"model": start, "heads": [asdict(origin) for origin in origins]})
