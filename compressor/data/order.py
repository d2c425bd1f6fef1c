"""The order of training rows: batches of rows of like length, fixed by seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from compressor.data.mixture import TaskMixture

_BATCHES_PER_GROUP = 50
TOKENS_PER_BATCH = 4096


def batches_by_length(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in ascending length, cut so that a padded batch has at most `TOKENS_PER_BATCH` tokens, or is one row.

    Args:
        lengths: tokens per row, int64 [rows].

    Yields:
        int64 [rows of the batch].
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or int(lengths[order[end]]) * (end + 1 - start) > TOKENS_PER_BATCH:
            yield order[start:end]
            start = end


class LengthGroupedBatchSampler(Sampler[list[int]]):
    """Batches of rows of like length, in a random order that depends on the seed and the epoch alone.

    The rows of the epoch are shuffled, cut into groups of about fifty batches, sorted by length inside each group
    and cut into batches; then the batches are shuffled. Without a mixture every row comes once per epoch and one
    batch may be short; with one, the rows are those that it draws, and every batch is full. The global random state
    is neither read nor moved, so a resumed run sees the batches that an uninterrupted one would have seen.
    """

    drop_last = False  # read by accelerate when batches are shared between processes

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, batch_size: int, *, seed: int, mixture: TaskMixture | None = None
    ) -> None:
        """Fix what an epoch reads.

        Args:
            lengths: tokens per row.
            batch_size: rows per batch, at least 1.
            seed: at least 0.
            mixture: of the tasks that the rows belong to, one task behind the other; None reads every row once.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.mixture = mixture
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives; called by accelerate and the Trainer."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        state = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        rows = self._rows()
        shuffled = rows[torch.randperm(len(rows), generator=generator).numpy()]
        batches = [batch for group in self._groups(shuffled) for batch in self._cut(group)]
        for position in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[position].tolist()

    def _rows(self) -> np.ndarray:
        """What this epoch reads, in no order that matters."""
        if self.mixture is None:
            return np.arange(len(self.lengths))
        return self.mixture.rows(self.epoch, len(self) * self.batch_size)

    def _groups(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows in groups of nearly equal size, each but the last a whole number of batches."""
        num_groups = max(1, round(len(self) / _BATCHES_PER_GROUP))
        cuts = np.linspace(0, len(self), num_groups + 1).round().astype(np.int64)[1:-1] * self.batch_size
        return np.split(rows, cuts)

    def _cut(self, group: np.ndarray) -> list[np.ndarray]:
        """A group's batches, longest rows first."""
        ordered = group[np.argsort(-self.lengths[group], kind="stable")]
        return np.split(ordered, range(self.batch_size, len(ordered), self.batch_size))
