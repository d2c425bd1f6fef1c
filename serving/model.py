"""A graph with its tokenizer: texts in, logits out; for bundles, and for candidates before they are one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serving.errors import BundleError, UserError
from serving.manifest import TaskSpec
from serving.tokenise import Encoding, TextEncoder

if TYPE_CHECKING:
    import onnxruntime

    from serving.binding import BoundSession

FEW_LOGITS = 256
"""Up to so many, a Python loop is faster than the array's functions, whose code is seldom in a cache."""


class OnnxModel:
    """One session, the encoder that feeds it and the tasks that read it."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession | BoundSession,
        encoder: TextEncoder,
        tasks: Sequence[TaskSpec],
    ) -> None:
        """Join the three; BundleError when the graph has not the inputs and outputs that the others name."""
        _check_names("inputs", [node.name for node in session.get_inputs()], encoder.inputs.names)
        _check_names("outputs", [node.name for node in session.get_outputs()], [task.output for task in tasks])
        self.session = session
        self.encoder = encoder
        self.tasks = tuple(tasks)
        self._by_name = {task.name: task for task in tasks}

    def task(self, name: str) -> TaskSpec:
        """The task of this name; UserError names the choices."""
        try:
            return self._by_name[name]
        except KeyError:
            raise UserError(f"no task '{name}'. Choose among: {', '.join(self._by_name)}") from None

    def choose_tasks(self, names: Sequence[str] | None) -> tuple[TaskSpec, ...]:
        """The named tasks in the order asked for (None: all); UserError names the choices."""
        if names is None:
            return self.tasks
        if not names:
            raise UserError(f"no task was asked for. Choose among: {', '.join(self._by_name)}; or leave it out for all")
        return tuple(map(self.task, dict.fromkeys(names)))

    def run(
        self, encodings: Sequence[Encoding], tasks: Sequence[str] | None = None, batch_size: int = 1
    ) -> dict[str, NDArray[np.float32]]:
        """Logits of encoded texts, in their order; inside, texts of like length share a batch.

        Args:
            encodings: from `self.encoder.encode`.
            tasks: names of the wanted tasks; None for all.
            batch_size: texts per call; above 1, neighbours change the answers of dynamic int8.

        Returns:
            Per task, [rows, outputs].

        Raises:
            UserError: unknown task, or a batch size below 1.
            BundleError: the graph gave NaN, infinity or another width than the task has.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; give the number of texts per call, at least 1")
        chosen = self.choose_tasks(tasks)
        num_rows = len(encodings)
        logits = {task.name: np.empty((num_rows, task.num_outputs), dtype=np.float32) for task in chosen}
        for rows in _batches(encodings, batch_size):
            outputs = self.call([encodings[row] for row in rows], chosen, rows)
            for task, output in zip(chosen, outputs, strict=True):
                logits[task.name][rows] = output
        return logits

    def call(
        self, encodings: Sequence[Encoding], tasks: Sequence[TaskSpec], rows: Sequence[int] | None = None
    ) -> list[NDArray[np.float32]]:
        """One call of the graph over all the texts given, padded to the longest.

        Args:
            encodings: at least one.
            tasks: the wanted ones.
            rows: what an error calls the texts; None for 0, 1, ...

        Returns:
            Per task, [rows, outputs], all finite.

        Raises:
            BundleError: the graph gave NaN, infinity or another width than the task has.
        """
        outputs: list[NDArray[np.float32]] = self.session.run(
            [task.output for task in tasks], self.encoder.batch(encodings)
        )
        for task, output in zip(tasks, outputs, strict=True):
            _check_output(task, output, range(len(encodings)) if rows is None else rows)
        return outputs


def _batches(encodings: Sequence[Encoding], batch_size: int) -> Iterator[list[int]]:
    """Row numbers of each batch, shortest texts first, so that padding is small."""
    order = sorted(range(len(encodings)), key=lambda row: len(encodings[row]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _check_names(kind: str, given: Sequence[str], expected: Sequence[str]) -> None:
    if set(given) != set(expected):
        raise BundleError(
            f"the graph's {kind} are {sorted(given)}, but the manifest says {sorted(expected)}. "
            "Export the bundle again."
        )


def _check_output(task: TaskSpec, output: NDArray[np.float32], rows: Sequence[int]) -> None:
    expected = (len(rows), task.num_outputs)
    if output.shape != expected:
        raise BundleError(
            f"output '{task.output}' has the shape {output.shape}, but task '{task.name}' needs {expected}. "
            "Export the bundle again."
        )
    if not _is_finite(output):
        finite = np.isfinite(output).all(axis=1)
        raise BundleError(
            f"the graph gave logits that are not numbers for text {rows[int(finite.argmin())]} "
            f"(task '{task.name}'). Serve another precision, or export the bundle again."
        )


def _is_finite(output: NDArray[np.float32]) -> bool:
    """Whether all are; of a few, their sum tells: no sum of so few float32 overflows a Python float."""
    if output.size > FEW_LOGITS:
        return bool(np.isfinite(output).all())
    return math.isfinite(sum(output.ravel().tolist()))
