"""SDA and SDV in whole trainings: what they must not change, and what they must."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from compressor.data.splits import TaskData
from compressor.distillation.targets.sda import AverageOfStudents
from compressor.distillation.targets.self_teacher import CurrentStudent, SelfDistance
from compressor.distillation.targets.term import TaskBatch
from compressor.distillation.training import TrainingJob, train
from compressor.recipe import TrainingSettings
from serving.errors import UserError

Jobs = Callable[..., TrainingJob]


def trained(job: TrainingJob, folder: Path) -> dict[str, Tensor]:
    folder.mkdir()
    train(job, folder)
    return load_file(folder / "model.safetensors")


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def distances(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The self-distillation term of every micro-batch from now on."""
    found: list[float] = []
    loss = SelfDistance.loss

    def noted(self: SelfDistance, batch: TaskBatch) -> Tensor:
        value = loss(self, batch)
        found.append(float(value.detach()))
        return value

    monkeypatch.setattr(SelfDistance, "loss", noted)
    return found


@pytest.fixture
def few(fast: TrainingSettings) -> TrainingSettings:
    """Six steps."""
    return fast.model_copy(update={"batch_size": 16, "epochs": 1, "warmup": 0.0})


@pytest.mark.parametrize("text", ["sda:weight=0:k=all", "kd+sdv:weight=0:k=3"])
def test_lambda_zero_is_the_control_bit_for_bit(text: str, job: Jobs, few: TrainingSettings, tmp_path: Path) -> None:
    """Catches a teacher that moves the random state, or unlabelled texts, although its term weighs nothing."""
    control = trained(job("kd" if "kd" in text else "none", few), tmp_path / "control")
    assert same(control, trained(job(text, few), tmp_path / "zero"))
    real = text.replace("weight=0", "weight=1")
    assert not same(control, trained(job(real, few), tmp_path / "real"))


@pytest.mark.parametrize("text", ["sda:k=3", "sdv:k=2"])
def test_a_term_without_weight_would_leave_the_training_alone(
    text: str, job: Jobs, few: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a teacher's forward pass that draws from the random state of the student's dropout."""
    control = trained(job("none", few), tmp_path / "none")
    monkeypatch.setattr(SelfDistance, "loss", lambda _self, batch: 0.0 * batch.self_logits.sum())
    assert same(control, trained(job(text, few), tmp_path / "asked"))


@pytest.mark.parametrize("text", ["sda", "sdv"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_one_past_student_teaches_nothing_in_the_first_step_and_something_from_the_second(
    text: str, dtype: str, job: Jobs, few: TrainingSettings, distances: list[float], tmp_path: Path
) -> None:
    """Catches a teacher that is the current student, and one that lags two steps behind."""
    settings = few.model_copy(update={"dtype": dtype})
    trained(job(text, settings, dropout=False), tmp_path / "run")
    assert len(distances) == 6
    assert distances[0] == pytest.approx(0.0, abs=1e-9)
    assert min(distances[1:]) > 1e-7


def test_the_ablation_teaches_dropout_away_and_nothing_else(
    job: Jobs, few: TrainingSettings, distances: list[float], tmp_path: Path
) -> None:
    """Catches an ablation that knows the past."""
    ablation = "sda:teacher=current"
    assert isinstance(job(ablation).plan.self_teacher, CurrentStudent)
    trained(job(ablation, few, dropout=False), tmp_path / "without")
    assert distances == pytest.approx([0.0] * 6, abs=1e-9)
    trained(job(ablation, few), tmp_path / "with")
    assert min(distances[6:]) > 1e-7


@pytest.mark.parametrize(("text", "number"), [("sda", 1), ("sda:k=3", 3), ("sda:k=all", 99)])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_teacher_of_every_training_step_is_the_mean_of_the_stored_students(
    text: str,
    number: int,
    accumulation: int,
    job: Jobs,
    fast: TrainingSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a student taken in after its update, per micro-batch, or once too often with a short last batch."""
    stored: dict[int, list[Tensor]] = {}
    asked: list[int] = []
    step = [1]
    kind = type(job(text).plan.self_teacher)
    assert issubclass(kind, AverageOfStudents)
    answer, update = AverageOfStudents.logits, kind.before_update

    def checked(self: AverageOfStudents, model: nn.Module, *inputs: Any) -> dict[str, Tensor]:
        stored.setdefault(step[0] - 1, [tensor.detach().double() for tensor in model.parameters()])
        asked.append(step[0])
        newest = max(step[0] - 2, 0)
        students = [stored[position] for position in range(max(newest - number + 1, 0), newest + 1)]
        for found, ones in zip(self.module.parameters(), zip(*students, strict=True), strict=True):
            torch.testing.assert_close(found.double(), torch.stack(ones).mean(dim=0), rtol=0, atol=1e-6)
        return answer(self, model, *inputs)

    def counted(self: AverageOfStudents, model: nn.Module, number_of_step: int) -> None:
        assert number_of_step == step[0]
        update(self, model, number_of_step)
        step[0] += 1

    monkeypatch.setattr(AverageOfStudents, "logits", checked)
    monkeypatch.setattr(kind, "before_update", counted)
    settings = fast.model_copy(update={"batch_size": 10, "gradient_accumulation": accumulation, "epochs": 2})
    trained(job(text, settings), tmp_path / "run")
    assert step[0] - 1 == json.loads((tmp_path / "run" / "history.json").read_text())["steps"]
    assert len(asked) == 20
    assert max(asked.count(one) for one in set(asked)) == accumulation


@pytest.mark.parametrize("text", ["kd+sda", "sdv:k=2+swa:every=1"])
def test_gradient_accumulation_trains_like_the_larger_batch(
    text: str, job: Jobs, fast: TrainingSettings, tmp_path: Path
) -> None:
    """Catches anything that is pushed, averaged or weighted per micro-batch; the last micro-batch is a short one."""
    whole = fast.model_copy(update={"batch_size": 108, "epochs": 4})
    parts = whole.model_copy(update={"batch_size": 25, "gradient_accumulation": 5})
    expected = trained(job(text, whole, dropout=False), tmp_path / "whole")
    found = trained(job(text, parts, dropout=False), tmp_path / "parts")
    for name in expected:
        torch.testing.assert_close(expected[name], found[name], rtol=0, atol=3e-5)


@pytest.mark.parametrize("text", ["sda:k=3", "sdv:k=3"])
def test_where_the_snapshots_lie_changes_nothing(text: str, job: Jobs, few: TrainingSettings, tmp_path: Path) -> None:
    """Catches snapshots that lose precision, or share memory with the student, on one of the two places."""
    there = trained(job(f"{text}:snapshots=device", few), tmp_path / "device")
    assert same(there, trained(job(f"{text}:snapshots=cpu", few), tmp_path / "cpu"))


def test_distance_is_measured_on_logits_whatever_the_task(make_data: Callable[..., TaskData]) -> None:
    """Catches regression compared in the user's units, and multilabel compared as probabilities."""
    from compressor.tasks.registry import TASKS

    logits, theirs = torch.tensor([[1.0, -1.0], [0.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    nothing = torch.zeros(2)
    for kind, mine, other, wanted in (
        ("multilabel", logits, theirs, 4.5),
        ("classification", logits, theirs, 4.5),
        ("regression", logits[:, :1], theirs[:, :1], 1.0),
    ):
        batch = TaskBatch(TASKS[make_data(kind).task.type], mine, nothing, nothing.bool(), None, other)
        assert float(SelfDistance(1.0).loss(batch)) == wanted
        assert float(SelfDistance(1.5).loss(batch)) == 1.5 * wanted


COMPOSITIONS = ["kd+sda+swa:every=1:keep=selected", "sdv:k=2+ema:decay=0.9", "sda:k=all+se"]
FORMS = [(kind, pairs) for kind in ("classification", "multilabel", "regression") for pairs in (False, True)]
EVERY = [
    pytest.param(text, *form, marks=() if row % len(COMPOSITIONS) == column else pytest.mark.slow)
    for row, form in enumerate(FORMS)
    for column, text in enumerate(COMPOSITIONS)
]


@pytest.mark.parametrize(("text", "kind", "pairs"), EVERY)
def test_every_task_type_trains_by_every_composition(
    text: str,
    kind: str,
    pairs: bool,
    job: Jobs,
    make_data: Callable[..., TaskData],
    few: TrainingSettings,
    tmp_path: Path,
) -> None:
    """Catches a method that knows one task type only, and NaN from texts without a label."""
    data = make_data(kind, pairs=pairs)
    composed = trained(job(text, few, data=data), tmp_path / "composed")
    assert all(torch.isfinite(tensor).all() for tensor in composed.values())
    plain = trained(job("kd" if "kd" in text else "none", few, data=data), tmp_path / "plain")
    assert not same(composed, plain)


def test_an_impossible_plan_is_refused_before_the_first_step(job: Jobs, few: TrainingSettings, tmp_path: Path) -> None:
    """Catches a direct call of the training that waits until the end to find that nothing was averaged."""
    with pytest.raises(UserError, match=r"sda\.k is 7, but the training has only 6 optimizer steps"):
        train(job("sda:k=7", few), tmp_path)
    assert list(tmp_path.glob("checkpoints/*")) == []
