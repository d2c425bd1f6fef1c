"""Running a graph that may be broken: it always answers, and what went wrong is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from export.parity.shapes import shape_of
from export.runners import Inputs, Logits, Runner
from serving.manifest import TaskSpec

NO_LOGIT = np.finfo(np.float32).max
"""Stands where a graph gave no finite logit; JSON has no infinity."""


class CheckedRunner:
    """A runner whose logits are `NO_LOGIT` where the graph failed, or gave NaN, infinity or another shape.

    Attributes:
        problem: the first thing that went wrong, in words; None while all is well.
    """

    def __init__(self, run: Runner, tasks: Sequence[TaskSpec]) -> None:
        """Wrap a runner that is expected to answer these tasks."""
        self.problem: str | None = None
        self._run = run
        self._tasks = tuple(tasks)
        self._errors = _run_errors()

    def __call__(self, inputs: Inputs) -> Logits:
        """Logits of every task, [batch, outputs]."""
        batch, tokens = shape_of(inputs)
        try:
            given: Mapping[str, NDArray[np.float32]] = self._run(inputs)
        except self._errors as error:
            # A graph with a frozen axis cannot run other shapes at all: that is a finding, not a crash.
            self._remember(f"it cannot run a batch of {batch} x {tokens} tokens: {_first_line(error)}")
            given = {}
        return {task.name: self._checked(task, given.get(task.name), batch) for task in self._tasks}

    def _checked(self, task: TaskSpec, logits: NDArray[np.float32] | None, batch: int) -> NDArray[np.float32]:
        shape = (batch, task.num_outputs)
        if logits is None or logits.shape != shape:
            found = "no logits" if logits is None else f"logits of shape {logits.shape}"
            self._remember(f"it gives {found} for task '{task.name}' where {shape} is expected")
            return np.full(shape, NO_LOGIT)
        if not (is_number := np.isfinite(logits)).all():
            self._remember(f"it gives logits that are not numbers for task '{task.name}'")
        return np.where(is_number, logits, NO_LOGIT)

    def _remember(self, problem: str) -> None:
        self.problem = self.problem or problem


def _run_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises when a session cannot compute a batch, and torch for ids beyond its tables."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    raised = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*raised, ValueError, RuntimeError, IndexError)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
