"""What the learning stages take over from a teacher, and what is checked before they start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from compressor.data.batches import tokenise
from compressor.data.splits import TaskData
from compressor.models.checkpoint import load_checkpoint, load_with_tokenizer
from compressor.models.initialise import from_teacher, max_tokens, skeleton
from compressor.models.predict import predict_logits
from compressor.models.teacher import import_teacher, teacher_logits
from compressor.pipeline.checks import check_before_training
from compressor.pipeline.learning import Seeds, TrainingContext, train_teacher
from compressor.recipe import Recipe, TeacherSettings, TrainingSettings
from serving.errors import UserError


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
def test_a_student_of_all_the_teachers_layers_answers_like_it_in_the_datas_label_order(
    toy_data: TaskData, checkpoint: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    """Catches a copied head whose outputs keep the teacher's order: the student starts with its labels swapped."""
    labels = ("account", "other", "billing", "delivery")  # one more than the data have, in another order
    import_teacher(tmp_path, TeacherSettings(model=str(checkpoint(architecture, labels)), train=False), toy_data.task)
    texts = toy_data.splits["validation"].texts
    expected = teacher_logits(tmp_path, texts, toy_data.task, max_length=32)
    teacher, tokenizer = load_with_tokenizer(tmp_path)
    student = from_teacher(teacher, [toy_data.task], layers=None)
    tokens = tokenise(tokenizer, texts, 32)
    found = predict_logits(student, tokens, "topic", pad_id=int(tokenizer.pad_token_id))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert load_checkpoint(tmp_path).tasks[0].labels == labels  # the teacher is left as it was


@pytest.mark.parametrize(("architecture", "tokens"), [("bert", 512), ("roberta", 129)])
def test_the_longest_input_is_known_without_weights(
    checkpoint: Callable[..., Path], architecture: str, tokens: int
) -> None:
    """Catches an index error of a position table in the middle of a training."""
    encoder = skeleton(str(checkpoint(architecture)))
    assert all(parameter.is_meta for parameter in encoder.parameters())
    assert max_tokens(encoder) == tokens


def test_relative_positions_set_no_limit(checkpoint: Callable[..., Path]) -> None:
    """Catches a long text refused for a model (DeBERTa-v3) that has no table of positions."""
    folder = checkpoint("deberta-v2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "position_biased_input": False}))
    assert max_tokens(skeleton(str(folder))) is None


@pytest.mark.parametrize(("max_length", "fits"), [(129, True), (130, False)])
def test_the_limit_of_positions_is_exact(checkpoint: Callable[..., Path], max_length: int, fits: bool) -> None:
    """Catches a limit that is off by RoBERTa's padding position, in either direction."""
    values = {"name": "toy", "tasks": {"topic": {"data": "x.csv"}}, "max_length": max_length}
    recipe = Recipe.model_validate({**values, "teacher": {"model": str(checkpoint("roberta"))}})
    if fits:
        check_before_training(recipe)
    else:
        with pytest.raises(UserError, match="at most 129"):
            check_before_training(recipe)


@pytest.mark.parametrize("name", ["type", "keys", "encoder", "forward"])
def test_a_task_may_have_the_name_of_a_module_attribute(
    toy_data: TaskData, checkpoint: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    """Catches a label column called `type`, which a torch module has already, that ends in a traceback."""
    task = msgspec.structs.replace(toy_data.task, name=name)
    import_teacher(tmp_path, TeacherSettings(model=str(checkpoint()), train=False), task)
    logits = teacher_logits(tmp_path, toy_data.splits["test"].texts, task, max_length=32)
    assert logits.shape == (24, 3)


def test_a_teacher_goes_on_from_an_earlier_training(
    toy_data: TaskData, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Catches a teacher that reads its source's rows first and then begins anew with the pretrained weights."""
    model = str(checkpoint())

    def taught(name: str, rate: float, start: Path | None = None) -> dict[str, Tensor]:
        settings = TrainingSettings(steps=3, batch_size=8, dtype="fp32", threads=1, learning_rate=rate)
        context = TrainingContext(settings, 32, Seeds(0, 0))
        (tmp_path / name).mkdir()
        train_teacher(tmp_path / name, {"topic": toy_data}, model, context, start=start)
        return load_checkpoint(tmp_path / name).state_dict()

    source, alone = taught("source", 1e-3), taught("alone", 1e-12)
    both = taught("both", 1e-12, tmp_path / "source")
    torch.testing.assert_close(both, source, rtol=0, atol=1e-9)
    assert any(not torch.allclose(tensor, alone[name], rtol=0, atol=1e-4) for name, tensor in both.items())
