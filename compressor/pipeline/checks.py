"""What can be known to be wrong with a recipe before a row is read or a step is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from transformers.integrations import get_available_reporting_integrations

from compressor.data.folds import fold_numbers
from compressor.data.splits import TaskData
from compressor.distillation.augmentation.knobs import L2aKnobs, RefillKnobs
from compressor.distillation.augmentation.reward_rows import reward_folds
from compressor.distillation.plan import build_plan, check_plan
from compressor.distillation.precision import find_device
from compressor.distillation.training import training_steps
from compressor.models.initialise import keep_layers, load_tokenizer, max_tokens, skeleton
from compressor.models.masked_lm import load_masked_lm
from compressor.models.warm_start import check_warm_start, is_warm_start
from compressor.pipeline.augmenting_stages import ADAPTED, added_texts, pretrained_of
from compressor.pipeline.joining import check_can_be_averaged, check_fits_data
from compressor.pipeline.several_runs import given_folders, member_methods
from compressor.recipe import Recipe, TrainingSettings
from serving.errors import UserError

_TRACKER_WORDS = ("all", "none")


def check_before_training(recipe: Recipe) -> None:
    """Find every checkpoint, device and tracker that a recipe names; the only weights loaded are a masked LM's.

    Raises:
        UserError: one of them is not there, or does not fit the recipe's layers or max_length; given students that
            cannot be joined.
    """
    for settings in _trainings(recipe):
        find_device(settings.device)
        _check_trackers(settings.report_to)
    for model in dict.fromkeys(_models(recipe)):
        load_tokenizer(model)
        _check_length(model, recipe.max_length)
    keep_layers(skeleton(recipe.student_model()), recipe.student.layers)
    if is_warm_start(recipe.student.model):
        check_warm_start(Path(recipe.student_model()))
    knobs = added_texts(recipe.method)
    if isinstance(knobs, RefillKnobs):
        _check_masked_lm(recipe, knobs)
    if given := given_folders(recipe.method):
        check_can_be_averaged(given)


def check_with_data(recipe: Recipe, data: Mapping[str, TaskData]) -> None:
    """Check what only the rows decide: room for the method in so many steps, rows for every fold, given students.

    Meant to be called before the teacher is trained, so that a wrong method costs no training.

    Args:
        recipe: the method of its student and the training settings.
        data: all tasks of the recipe, ready for training.

    Raises:
        UserError: the method cannot be trained in so many steps, there are fewer texts than folds, or given students
            answer other labels.
    """
    own = {name: task for name, task in data.items() if name in recipe.student_tasks}
    if given := given_folders(recipe.method):
        check_fits_data(given, own)
        return
    methods = member_methods(recipe.method)
    plan = build_plan(methods, patience=recipe.training.early_stopping)
    check_plan(methods, recipe.training, training_steps(own, plan, recipe.training))
    _check_folds(recipe, data)
    knobs = added_texts(methods)
    if isinstance(knobs, L2aKnobs):
        for task in recipe.augmented_tasks(knobs):
            reward_folds(data[task])


def _check_folds(recipe: Recipe, data: Mapping[str, TaskData]) -> None:
    for tasks in dict.fromkeys(recipe.teacher_group(task) for task in recipe.taught_tasks):
        if folds := recipe.teacher_of(tasks[0]).folds:
            fold_numbers({task: data[task] for task in tasks}, folds)


def _check_masked_lm(recipe: Recipe, knobs: RefillKnobs) -> None:
    is_adapted = knobs.mlm == ADAPTED
    for model in {pretrained_of(recipe, task) if is_adapted else knobs.mlm for task in recipe.augmented_tasks(knobs)}:
        load_masked_lm(model, must_be_trained=not is_adapted)


def _trainings(recipe: Recipe) -> Iterator[TrainingSettings]:
    yield recipe.training
    for task in recipe.taught_tasks:
        yield recipe.teacher_of(task).training(recipe.training)


def _models(recipe: Recipe) -> Iterator[str]:
    teachers = [recipe.teacher_of(task) for task in recipe.taught_tasks]
    yield from (model for teacher in teachers for model in teacher.models)
    yield recipe.student_model()


def _check_trackers(names: list[str]) -> None:
    installed = get_available_reporting_integrations()
    missing = [name for name in names if name not in (*installed, *_TRACKER_WORDS)]
    if missing:
        raise UserError(
            f"the tracker '{missing[0]}' of training.report_to is unknown or not installed. "
            f"Installed: {', '.join(installed) or 'none'}; install its package or leave report_to empty."
        )


def _check_length(model: str, max_length: int) -> None:
    limit = max_tokens(skeleton(model))
    if limit is not None and max_length > limit:
        raise UserError(
            f"max_length is {max_length}, but '{model}' has positions for {limit} tokens. Set it to at most {limit}."
        )
