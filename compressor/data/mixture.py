"""Which rows of several tasks an epoch of a student reads.

Source: Clark et al. (2019), arXiv:1907.04829 (BAM): tasks are drawn in proportion to a power of their sizes, so that
small tasks are seen more often than in proportion and large ones still most [paper]. That every task is read in
shuffled passes, a pass through to its end before the next begins, is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_COUNTS, _PASSES = 0, 1  # two streams of chance from one seed


def task_probabilities(sizes: Sequence[int], exponent: float) -> np.ndarray:
    """Probability that an example is drawn from a task: size^exponent over the sum of these.

    Args:
        sizes: rows per task, each at least 1.
        exponent: in [0, 1]; 0 draws all tasks equally often, 1 all rows.

    Returns:
        float64 [tasks], sum 1.

    Raises:
        ValueError: a task without rows, or an exponent outside [0, 1].
    """
    if min(sizes) < 1:
        raise ValueError(f"the tasks have {list(sizes)} rows; each must have at least one")
    if not 0.0 <= exponent <= 1.0:
        raise ValueError(f"the exponent is {exponent}; it must be in [0, 1]")
    powers = np.asarray(sizes, dtype=np.float64) ** exponent
    weights: np.ndarray = powers / powers.sum()
    return weights


class TaskMixture:
    """Draws the task of every example, and its row from the task's own shuffled passes.

    How often a task is drawn in an epoch is random; its rows are not: what one epoch leaves of a pass, the next one
    continues with, so no row is ahead of another of its task by more than one reading. All depends on the seed and
    the epoch alone, and the global random state is neither read nor moved.

    Attributes:
        sizes: rows per task.
        probabilities: of the tasks.
    """

    def __init__(self, sizes: Sequence[int], exponent: float, *, seed: int) -> None:
        """Args: sizes: rows per task, one task behind the other; exponent: in [0, 1]; seed: at least 0."""
        self.sizes = tuple(sizes)
        self.probabilities = task_probabilities(sizes, exponent)
        self.seed = seed

    def rows(self, epoch: int, number: int) -> np.ndarray:
        """The rows of an epoch, one task behind the other.

        Args:
            epoch: from 0.
            number: how many rows each epoch has.

        Returns:
            int64 [number], positions among the rows of all tasks.
        """
        begins = np.zeros(len(self.sizes), dtype=np.int64)
        for earlier in range(epoch):
            begins += self.counts(earlier, number)
        counts = self.counts(epoch, number)
        firsts = np.cumsum([0, *self.sizes[:-1]])
        streams = [self._stream(task, int(begins[task]), int(counts[task])) for task in range(len(self.sizes))]
        return np.concatenate([first + stream for first, stream in zip(firsts, streams, strict=True)])

    def counts(self, epoch: int, number: int) -> np.ndarray:
        """How many of an epoch's examples each task gets, int64 [tasks]: `number` independent draws of a task."""
        drawn: np.ndarray = self._generator(_COUNTS, epoch).multinomial(number, self.probabilities)
        return drawn

    def _stream(self, task: int, begin: int, count: int) -> np.ndarray:
        """So many rows of a task's endless stream of passes."""
        size = self.sizes[task]
        first, last = begin // size, max(begin + count - 1, begin) // size
        passes = [self._generator(_PASSES, task, number).permutation(size) for number in range(first, last + 1)]
        skipped = begin - first * size
        return np.concatenate(passes)[skipped : skipped + count]

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=stream))
