"""SDA and SDV against their definitions: stored snapshots and brute force."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressor.distillation.targets.sda import AverageOfStudents
from compressor.distillation.targets.self_teacher import SelfTeacher, logit_distance
from compressor.distillation.weights.average import model_tensors

Walk = Callable[..., Iterator[Any]]
Make = Callable[[str], SelfTeacher]


def past(history: list[list[Tensor]], number: int | None) -> list[list[Tensor]]:
    """The students that the teacher of this step may know: the last K before the current one, w_0 in step 1."""
    before = history[:-1] or history[:1]
    return before if number is None else before[-number:]


def brute_force_mean(students: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack([one.double() for one in ones]).mean(dim=0) for ones in zip(*students, strict=True)]


@pytest.mark.parametrize(("text", "number"), [("sda:k=1", 1), ("sda:k=3", 3), ("sda:k=all", None)])
def test_the_averaged_teacher_is_the_mean_of_stored_snapshots(
    text: str, number: int | None, self_teacher: Make, student: Any, walk: Walk
) -> None:
    """Catches a teacher that knows the current student, forgets w_0 too early or counts a snapshot twice."""
    teacher = self_teacher(text)
    assert isinstance(teacher, AverageOfStudents)
    for moment in walk(teacher, student(bent=True), 12):
        expected = brute_force_mean(past(moment.history, number))
        for found, wanted in zip(teacher.module.parameters(), expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("snapshots", ["device", "cpu"])
@pytest.mark.parametrize("number", [1, 3])
def test_voting_students_answer_with_the_mean_of_their_logits(
    number: int, snapshots: str, self_teacher: Make, student: Any, walk: Walk, features: Tensor
) -> None:
    """Catches logits of the wrong students, or of one student asked K times."""
    asked = student(bent=True)
    for moment in walk(self_teacher(f"sdv:k={number}:snapshots={snapshots}"), student(bent=True), 8):
        answers: list[Tensor] = []
        for weights in past(moment.history, number):
            for parameter, value in zip(asked.parameters(), weights, strict=True):
                parameter.data = value
            answers.append(asked.layers(features))
        torch.testing.assert_close(moment.logits, torch.stack(answers).mean(dim=0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_both_teachers_agree_on_a_model_that_is_affine_in_its_parameters(
    number: int, self_teacher: Make, student: Any, walk: Walk
) -> None:
    """Catches either average that takes other students than the other, in float64 and to 1e-6."""
    averaged = walk(self_teacher(f"sda:k={number}"), student(bent=False, dtype=torch.float64), 9)
    torch.manual_seed(0)
    first = student(bent=False, dtype=torch.float64)
    averaged = walk(self_teacher(f"sda:k={number}"), first, 9)
    voting = walk(self_teacher(f"sdv:k={number}"), copy.deepcopy(first), 9)
    for one, other in zip(averaged, voting, strict=True):
        assert one.logits.dtype == torch.float64
        torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=1e-6)


def test_both_teachers_agree_on_any_deterministic_model_with_one_past_student(
    self_teacher: Make, student: Any, walk: Walk
) -> None:
    """Catches K = 1 that is not the one student before the current."""
    first = student(bent=True)
    pairs = zip(walk(self_teacher("sda"), first, 9), walk(self_teacher("sdv"), copy.deepcopy(first), 9), strict=True)
    assert all(torch.equal(one.logits, other.logits) for one, other in pairs)


def test_a_decay_lies_between_the_last_student_and_all_of_them(self_teacher: Make, student: Any, walk: Walk) -> None:
    """Catches an exponential mean that never leaves its start, or whose counts do not sum to 1."""
    teacher = self_teacher("sda:ema=0.8")
    assert isinstance(teacher, AverageOfStudents)
    for moment in walk(teacher, student(bent=True), 10):
        students = past(moment.history, None)
        counts = torch.tensor([0.8 ** (len(students) - 1 - age) for age in range(len(students))], dtype=torch.float64)
        for position, found in enumerate(teacher.module.parameters()):
            stacked = torch.stack([weights[position].double() for weights in students])
            wanted = torch.tensordot(counts / counts.sum(), stacked, dims=1)
            torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("text", ["sda", "sda:k=3", "sda:k=all", "sda:teacher=current", "sdv:k=2"])
def test_a_teacher_has_no_dropout_no_gradient_and_leaves_no_trace(
    text: str, self_teacher: Make, student: Any, walk: Walk
) -> None:
    """Catches a teacher that draws dropout masks, moves the random state or leaves the student in eval mode."""
    model = student(bent=True, dropout=0.5).train()
    model.layers[0].eval()
    before = torch.get_rng_state()
    for moment in walk(self_teacher(text), model, 4):
        assert not moment.logits.requires_grad
        assert [module.training for module in moment.model.layers] == [False, True, True, True]
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_ablation_asks_the_current_student(self_teacher: Make, student: Any, walk: Walk, features: Tensor) -> None:
    """Catches an ablation that is the method itself."""
    for moment in walk(self_teacher("sda:teacher=current"), student(bent=True), 4):
        torch.testing.assert_close(moment.logits, moment.model.layers(features), rtol=0, atol=0)


@pytest.mark.parametrize("text", ["sda", "sda:k=3", "sda:k=3:snapshots=cpu", "sda:k=all", "sda:ema=0.9", "sdv:k=3"])
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_restored_teacher_goes_on_as_if_nothing_had_happened(
    text: str, stop: int, self_teacher: Make, student: Any, walk: Walk, features: Tensor
) -> None:
    """Catches a count, a snapshot or an order of snapshots that a checkpoint forgets."""
    inputs, rows = {"features": features}, {"topic": torch.arange(8)}
    original, restored = self_teacher(text), self_teacher(text)
    restored.start(student(bent=True))
    for moment in walk(original, student(bent=True), 10):
        if moment.step == stop:
            restored.load_state(copy.deepcopy(original.state()))
        if moment.step >= stop:
            assert torch.equal(moment.logits, restored.logits(moment.model, inputs, rows)["topic"])
            restored.before_update(moment.model, moment.step)


def test_tied_weights_stay_tied_and_integers_are_copied(self_teacher: Make, student: Any, walk: Walk) -> None:
    """Catches an average in which two names of one tensor part ways, and a counter that is averaged."""
    model = student(bent=True)
    model.layers[3] = nn.Linear(5, 5)
    model.layers[3].weight = model.layers[0].weight
    teacher = self_teacher("sda:k=all")
    assert isinstance(teacher, AverageOfStudents)
    for moment in walk(teacher, model, 5):
        layers = teacher.module.layers
        assert isinstance(layers, nn.Sequential)
        assert layers[0].weight is layers[3].weight
        assert int(teacher.module.get_buffer("steps")) == max(0, moment.step - 2)


@pytest.mark.parametrize(
    ("text", "copies"),
    [("sda", 1), ("sda:k=all", 1), ("sda:ema=0.9", 1), ("sda:teacher=current", 0), ("sda:k=3", 4), ("sdv:k=3", 3)],
)
def test_a_teacher_holds_as_many_copies_as_the_documents_say(
    text: str, copies: int, self_teacher: Make, student: Any, walk: Walk
) -> None:
    """Catches a snapshot that is held although nothing reads it: bytes of all live tensors are counted."""
    model = student(bent=True)
    own = sum(tensor.nbytes for tensor in model_tensors(model))
    teacher = self_teacher(text)
    moments = walk(teacher, model, 9)
    for moment in moments:
        moment.history.clear()
    del moment, moments
    held = live_bytes()
    del teacher
    assert held - live_bytes() == copies * own


def live_bytes() -> int:
    """Bytes of the different storages of all tensors that are alive."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if issubclass(type(found), Tensor)]
    return sum({s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}.values())


def test_the_distance_is_the_mean_square_over_outputs() -> None:
    """Catches a sum over classes, a softmax before the difference, and a gradient into the teacher."""
    mine = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], requires_grad=True)
    theirs = torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.0, -3.0]], requires_grad=True)
    distance = logit_distance(mine, theirs)
    torch.testing.assert_close(distance, torch.tensor([13.0 / 3.0, 6.0]))
    torch.autograd.backward(distance.sum())
    assert theirs.grad is None
    assert mine.grad is not None
    torch.testing.assert_close(mine.grad, 2.0 / 3.0 * (mine - theirs).detach())
