"""When a recipe is a warm start: its key says so, its damage is found first, and only `student.model` makes it one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from compressor.models.checkpoint import HEADS_FILE, save_checkpoint
from compressor.models.initialise import pretrained_model
from compressor.pipeline.checks import check_before_training
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.learning import start_of
from compressor.pipeline.stages import StageStore
from compressor.recipe import Recipe
from serving.errors import UserError
from serving.manifest import TaskSpec

TASKS = [
    TaskSpec(name="topic", type="classification", labels=("account", "billing", "delivery")),
    TaskSpec(name="urgency", type="regression", range=(0.0, 5.0)),
]


@pytest.fixture
def earlier(checkpoint: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    """The folder of an earlier student of two tasks."""
    save_checkpoint(tmp_path / "student", pretrained_model(str(checkpoint()), TASKS, seed=0), tokenizer)
    return tmp_path / "student"


def recipe(data: Path, teacher: Path, student: Path | None) -> Recipe:
    values = {
        "name": "toy",
        "tasks": {"topic": {"data": str(data), "text": "text", "label": "topic"}},
        "teacher": {"model": str(teacher)},
        "student": {"model": None if student is None else str(student)},
        "max_length": 32,
    }
    return Recipe.model_validate(values)


def test_only_the_students_own_model_is_a_warm_start(earlier: Path, toy_file: Path) -> None:
    """Catches a teacher's folder whose head is taken for the student's because student.model was left out."""
    assert start_of(recipe(toy_file, earlier, None)) == "pretrained"
    assert start_of(recipe(toy_file, earlier, earlier)) == "warm start"


def test_taking_heads_is_part_of_the_key(earlier: Path, toy_file: Path, tmp_path: Path) -> None:
    """Catches a student with fresh heads that is reused for one that begins with earlier ones."""
    store = StageStore(tmp_path / "stages")
    cold, warm = (Pipeline(recipe(toy_file, earlier, model), store).student for model in (None, earlier))
    assert cold.fields["base"] == warm.fields["base"]
    assert cold.key != warm.key


def test_lost_heads_are_found_before_anything_is_trained(earlier: Path, toy_file: Path) -> None:
    """Catches a teacher trained for hours for a student that cannot begin."""
    check_before_training(recipe(toy_file, earlier, earlier))
    (earlier / HEADS_FILE).unlink()
    with pytest.raises(UserError, match=HEADS_FILE):
        check_before_training(recipe(toy_file, earlier, earlier))
