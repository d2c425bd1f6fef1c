"""Every task type, by the name a recipe uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from compressor.tasks.classification import Classification
from compressor.tasks.multilabel import Multilabel
from compressor.tasks.regression import Regression
from compressor.tasks.task import Task
from serving.manifest import TaskType

TASKS: Mapping[TaskType, Task] = MappingProxyType(
    {
        "classification": Classification(),
        "multilabel": Multilabel(),
        "regression": Regression(),
    }
)
