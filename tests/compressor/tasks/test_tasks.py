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
