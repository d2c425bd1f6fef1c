"""Which rows an epoch of a student reads, where they come from several pools: tasks, or own rows and added ones.

Source: Clark et al. (2019), arXiv:1907.04829 (BAM): tasks are drawn in proportion to a power of their sizes, so that
small tasks are seen more often than in proportion and large ones still most [paper]. That every pool is read in
shuffled passes, a pass through to its end before the next begins, is ours, and so is all that concerns added rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class TaskPools:
    """The rows of one task, its own before those that were added to them.

    Attributes:
        own: rows, at least 1.
        added: rows, 0 where there are none.
    """

    own: int
    added: int = 0


def pool_shares(tasks: Sequence[TaskPools], exponent: float, target_share: float | None) -> list[tuple[int, float]]:
    """Size and probability of every pool that has rows, in the order of the rows.

    Added rows change no task's probability: it counts the task's own rows.

    Args:
        tasks: one behind the other.
        exponent: see `task_probabilities`.
        target_share: share of a task's examples that are its own rows, in (0, 1), where it has added ones; None: all
            of its rows equally often.
    """
    pools: list[tuple[int, float]] = []
    of_tasks = task_probabilities([task.own for task in tasks], exponent)
    for task, probability in zip(tasks, of_tasks.tolist(), strict=True):
        if not task.added:
            pools.append((task.own, probability))
            continue
        own_share = task.own / (task.own + task.added) if target_share is None else target_share
        pools += [(task.own, probability * own_share), (task.added, probability * (1.0 - own_share))]
    return pools


class TaskMixture:
    """Draws the pool of every example, and its row from the pool's own shuffled passes.

    How often a pool is drawn in an epoch is random; its rows are not: what one epoch leaves of a pass, the next one
    continues with, so no row is ahead of another of its pool by more than one reading. All depends on the seed and
    the epoch alone, and the global random state is neither read nor moved.

    Attributes:
        sizes: rows per pool.
        probabilities: of the pools.
    """

    def __init__(self, sizes: Sequence[int], probabilities: Sequence[float] | np.ndarray, *, seed: int) -> None:
        """Args: sizes: rows per pool, one pool behind the other; probabilities: of the pools; seed: at least 0."""
        self.sizes = tuple(sizes)
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        self.seed = seed

    def rows(self, epoch: int, number: int) -> np.ndarray:
        """The rows of an epoch, one pool behind the other.

        Args:
            epoch: from 0.
            number: how many rows each epoch has.

        Returns:
            int64 [number], positions among the rows of all pools.
        """
        begins = np.zeros(len(self.sizes), dtype=np.int64)
        for earlier in range(epoch):
            begins += self.counts(earlier, number)
        counts = self.counts(epoch, number)
        firsts = np.cumsum([0, *self.sizes[:-1]])
        streams = [self._stream(pool, int(begins[pool]), int(counts[pool])) for pool in range(len(self.sizes))]
        return np.concatenate([first + stream for first, stream in zip(firsts, streams, strict=True)])

    def counts(self, epoch: int, number: int) -> np.ndarray:
        """How many of an epoch's examples each pool gets, int64 [pools]: `number` independent draws of a pool."""
        drawn: np.ndarray = self._generator(_COUNTS, epoch).multinomial(number, self.probabilities)
        return drawn

    def _stream(self, pool: int, begin: int, count: int) -> np.ndarray:
        """So many rows of a pool's endless stream of passes."""
        size = self.sizes[pool]
        first, last = begin // size, max(begin + count - 1, begin) // size
        passes = [self._generator(_PASSES, pool, number).permutation(size) for number in range(first, last + 1)]
        skipped = begin - first * size
        return np.concatenate(passes)[skipped : skipped + count]

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=stream))
