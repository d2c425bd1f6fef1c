"""Every task type: what must hold of its losses and metrics whatever the type."""

import numpy as np
import pytest
import torch

from compressor.tasks.registry import TASKS
from compressor.tasks.task import find_metric
from serving.errors import UserError
from serving.manifest import TaskSpec, TaskType

SPECS: dict[TaskType, TaskSpec] = {
    "classification": TaskSpec(name="t", type="classification", labels=("a", "b", "c")),
    "multilabel": TaskSpec(name="t", type="multilabel", labels=("a", "b", "c")),
    "regression": TaskSpec(name="t", type="regression", range=(1.0, 5.0)),
}
LABELS: dict[TaskType, np.ndarray] = {
    "classification": np.array([0, 2, 1, 1]),
    "multilabel": np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=np.float32),
    "regression": np.array([1.0, 2.0, 5.0, 3.5], dtype=np.float32),
}
every_type = pytest.mark.parametrize("task_type", list(TASKS))


def logits_for(task_type: TaskType, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (4, SPECS[task_type].num_outputs)
    return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)


def test_registry_keys_are_the_types_themselves() -> None:
    """A key that differs from its class's type would train one loss and report another's metrics."""
    assert {key: task.type for key, task in TASKS.items()} == {key: key for key in TASKS}


@every_type
def test_losses_are_one_number_per_example(task_type: TaskType) -> None:
    """A loss averaged inside would be scaled wrongly under gradient accumulation, with no error anywhere."""
    task = TASKS[task_type]
    targets = torch.from_numpy(task.targets(LABELS[task_type], SPECS[task_type]))
    student, teacher = logits_for(task_type, 0), logits_for(task_type, 1)
    together = task.hard_loss(student, targets), task.soft_loss(student, teacher, 2.0)
    for row in range(4):
        alone = student[row : row + 1]
        torch.testing.assert_close(task.hard_loss(alone, targets[row : row + 1])[0], together[0][row])
        torch.testing.assert_close(task.soft_loss(alone, teacher[row : row + 1], 2.0)[0], together[1][row])


@every_type
def test_teacher_is_a_constant(task_type: TaskType) -> None:
    """A gradient into the teacher would let a joint run pull it towards the student."""
    student, teacher = logits_for(task_type, 0), logits_for(task_type, 1)
    TASKS[task_type].soft_loss(student, teacher, 2.0).sum().backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None


@every_type
def test_soft_loss_is_least_where_the_student_equals_its_teacher(task_type: TaskType) -> None:
    """Distillation towards anything but the teacher's own logits would still look like a falling loss."""
    teacher = logits_for(task_type, 1).detach()
    student = teacher.clone().requires_grad_()
    TASKS[task_type].soft_loss(student, teacher, 3.0).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(student.grad, torch.zeros_like(student))


@every_type
def test_gradients_agree_with_finite_differences(task_type: TaskType) -> None:
    """A detach in the wrong place would freeze part of the student silently."""
    task = TASKS[task_type]
    targets = torch.from_numpy(task.targets(LABELS[task_type], SPECS[task_type]))
    teacher = logits_for(task_type, 1).detach()
    assert torch.autograd.gradcheck(lambda z: task.hard_loss(z, targets), logits_for(task_type, 0))
    assert torch.autograd.gradcheck(lambda z: task.soft_loss(z, teacher, 2.0), logits_for(task_type, 0))


@every_type
def test_default_metric_is_one_of_the_metrics(task_type: TaskType) -> None:
    """A default without a function would fail only at the end of a run without `metric`."""
    task = TASKS[task_type]
    assert find_metric(task, None) in task.metrics
    assert find_metric(task, list(task.metrics)[-1]) == list(task.metrics)[-1]


def test_unknown_metric_names_the_nearest_one() -> None:
    """A mistyped metric taken for the default would judge a run by what nobody asked for."""
    with pytest.raises(UserError, match=r"no classification metric 'makro_f1'.*Did you mean macro_f1\?"):
        find_metric(TASKS["classification"], "makro_f1")


def mixed(task_type: TaskType, student: torch.Tensor, weight: float | list[float]) -> torch.Tensor:
    """The loss of the four rows against their labels, weighted so, and a fixed teacher."""
    task = TASKS[task_type]
    targets = torch.from_numpy(task.targets(LABELS[task_type], SPECS[task_type]))
    weights = torch.as_tensor(weight, dtype=torch.float64).expand(4)
    return task.mixed_loss(student, targets, logits_for(task_type, 1).detach(), weights)


def gradient(task_type: TaskType, weight: float) -> torch.Tensor:
    student = logits_for(task_type, 0)
    mixed(task_type, student, weight).sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    return student.grad


@every_type
def test_a_mixed_loss_ends_at_the_label_and_begins_at_the_teacher(task_type: TaskType) -> None:
    """Weights the wrong way round anneal from the labels to the teacher, and still train."""
    task = TASKS[task_type]
    student, teacher = logits_for(task_type, 0), logits_for(task_type, 1).detach()
    targets = torch.from_numpy(task.targets(LABELS[task_type], SPECS[task_type]))
    torch.testing.assert_close(mixed(task_type, student, 1.0), task.hard_loss(student, targets))
    at_teacher = teacher.clone().requires_grad_()
    mixed(task_type, at_teacher, 0.0).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(at_teacher.grad, torch.zeros_like(teacher))
    task.soft_loss(student, teacher, 1.0).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(gradient(task_type, 0.0), student.grad)


@pytest.mark.parametrize("task_type", ["classification", "multilabel"])
@pytest.mark.parametrize("weight", [0.1, 0.5, 0.75, 0.99])
def test_a_mixed_loss_is_linear_in_the_weight(task_type: TaskType, weight: float) -> None:
    """A mix of logits, or a softmax of the mix, agrees at both ends and nowhere between."""
    student = logits_for(task_type, 0)
    between = (1.0 - weight) * mixed(task_type, student, 0.0) + weight * mixed(task_type, student, 1.0)
    torch.testing.assert_close(mixed(task_type, student, weight), between)


@every_type
@pytest.mark.parametrize("weight", [0.1, 0.5, 0.75, 0.99])
def test_the_gradient_of_a_mixed_loss_is_linear_in_the_weight(task_type: TaskType, weight: float) -> None:
    """Catches a regression towards anything but the mixed number."""
    between = (1.0 - weight) * gradient(task_type, 0.0) + weight * gradient(task_type, 1.0)
    torch.testing.assert_close(gradient(task_type, weight), between)


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 1.0])
def test_a_mixed_regression_differs_from_the_mix_of_losses_by_its_variance(weight: float) -> None:
    """The mix of two squared errors is another loss than the error to the mix: lam (1 - lam) (y - t)^2 apart."""
    task = TASKS["regression"]
    student, teacher = logits_for("regression", 0), logits_for("regression", 1).detach()
    labels = torch.from_numpy(task.targets(LABELS["regression"], SPECS["regression"]))
    mix = (1.0 - weight) * mixed("regression", student, 0.0) + weight * mixed("regression", student, 1.0)
    apart = weight * (1.0 - weight) * (labels - teacher.squeeze(-1)).square()
    torch.testing.assert_close(mix - mixed("regression", student, weight), apart)


@every_type
def test_every_row_of_a_mixed_loss_has_its_own_weight(task_type: TaskType) -> None:
    """A weight of another row, or one for the batch, would teach unlabelled texts a label that they do not have."""
    student = logits_for(task_type, 0)
    together = mixed(task_type, student, [0.0, 0.3, 1.0, 0.6])
    alone = [mixed(task_type, student, weight)[row] for row, weight in enumerate([0.0, 0.3, 1.0, 0.6])]
    assert together.shape == (4,)
    torch.testing.assert_close(together, torch.stack(alone))


@every_type
def test_a_label_of_weight_zero_is_not_read(task_type: TaskType) -> None:
    """A text without label holds -100 or NaN: read times 0 it makes every weight of the model NaN."""
    task = TASKS[task_type]
    labels = torch.from_numpy(task.targets(LABELS[task_type], SPECS[task_type]))
    missing = labels.clone()
    missing[1] = float("nan") if labels.is_floating_point() else -100
    student, teacher = logits_for(task_type, 0), logits_for(task_type, 1).detach()
    weights = torch.tensor([0.7, 0.0, 0.7, 0.7], dtype=torch.float64)
    found = task.mixed_loss(student, missing, teacher, weights)
    torch.testing.assert_close(found, task.mixed_loss(student, labels, teacher, weights))


@every_type
def test_the_teacher_of_a_mixed_loss_is_a_constant_and_the_student_is_not(task_type: TaskType) -> None:
    """A detach in the wrong place would freeze the student or move the teacher silently."""
    task = TASKS[task_type]
    labels = torch.from_numpy(task.targets(LABELS[task_type], SPECS[task_type]))
    teacher, weights = logits_for(task_type, 1), torch.full((4,), 0.4, dtype=torch.float64)
    task.mixed_loss(logits_for(task_type, 0), labels, teacher, weights).sum().backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    constant = teacher.detach()
    assert torch.autograd.gradcheck(lambda z: task.mixed_loss(z, labels, constant, weights), logits_for(task_type, 0))
