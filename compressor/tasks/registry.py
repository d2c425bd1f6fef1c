"""Every task type, by the name a recipe uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from compressor.tasks.classification import Classification
from compressor.tasks.multilabel import Multilabel
from compressor.tasks.regression import Regression
from compressor.tasks.task import Task
from serving.manifest import TaskSpec, TaskType

TASKS: Mapping[TaskType, Task] = MappingProxyType(
    {
        "classification": Classification(),
        "multilabel": Multilabel(),
        "regression": Regression(),
    }
)


def gold_losses(logits: Tensor, labels: np.ndarray, task: TaskSpec) -> Tensor:
    """Hard loss of each row against its gold label, [rows], in the precision of the logits.

    Args:
        logits: [rows, outputs].
        labels: as a split holds them.
        task: whose labels they are.
    """
    kind = TASKS[task.type]
    return kind.hard_loss(logits, torch.from_numpy(kind.targets(labels, task)))
