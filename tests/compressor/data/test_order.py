"""The order of batches: fixed by seed and epoch, like lengths together, the same after a resume."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from torch.utils.data import DataLoader

from compressor.data.builtin import CORPORA
from compressor.data.files import read_table
from compressor.data.mixture import TaskMixture, task_probabilities
from compressor.data.order import LengthGroupedBatchSampler


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    """Words per message of the built-in corpus, special tokens added: real, long-tailed lengths."""
    texts = read_table(CORPORA["supportdesk"] / "train.jsonl").frame["text"]
    return np.array([min(len(text.split()) + 2, 128) for text in texts])


@pytest.mark.parametrize("batch_size", [8, 16, 32])
def test_padding_costs_at_most_fifteen_percent(lengths: np.ndarray, batch_size: int) -> None:
    """Padding is paid in time only: no other test would notice a sampler that stopped grouping."""
    sampler = LengthGroupedBatchSampler(lengths, batch_size, seed=0)
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in sampler)
    assert padded / lengths.sum() <= 1.06  # goal 1.15; measured 1.03


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 4), (7, 4), (801, 8), (1728, 16), (3, 1)])
def test_every_row_comes_once_per_epoch(rows: int, batch_size: int) -> None:
    """Rows lost or doubled by the cutting change the training set without a trace."""
    sampler = LengthGroupedBatchSampler(np.arange(rows) % 50, batch_size, seed=1)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert sorted(row for batch in batches for row in batch) == list(range(rows))
        assert len(batches) == len(sampler)
        assert sorted(map(len, batches), reverse=True)[: rows // batch_size] == [batch_size] * (rows // batch_size)


def test_order_depends_on_seed_and_epoch_alone(lengths: np.ndarray) -> None:
    """An order from the global state differs after a resume; one without the epoch never shuffles."""
    sampler = LengthGroupedBatchSampler(lengths, 16, seed=3)
    first = list(sampler)
    state = torch.get_rng_state()
    torch.manual_seed(99)
    moved = torch.get_rng_state()
    assert list(sampler) == first
    assert torch.equal(torch.get_rng_state(), moved)
    torch.set_rng_state(state)
    assert list(LengthGroupedBatchSampler(lengths, 16, seed=4)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_batches_mix_rows_anew_in_every_epoch(lengths: np.ndarray) -> None:
    """Sorting the whole set would give the same batches in another order, for ever."""
    sampler = LengthGroupedBatchSampler(lengths, 16, seed=0)
    first = {tuple(sorted(batch)) for batch in sampler}
    sampler.set_epoch(1)
    second = {tuple(sorted(batch)) for batch in sampler}
    assert len(first & second) < len(first) / 20


def test_long_and_short_batches_come_in_random_order(lengths: np.ndarray) -> None:
    """Batches left in order of length would train on short texts last."""
    means = np.array([lengths[batch].mean() for batch in LengthGroupedBatchSampler(lengths, 16, seed=0)])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3


def test_a_batch_size_below_one_is_refused() -> None:
    """It would give no batches, and a training that ends at once."""
    with pytest.raises(ValueError, match="at least 1"):
        LengthGroupedBatchSampler([1, 2], 0, seed=0)


def loader_of_rows(lengths: np.ndarray) -> DataLoader[Any]:
    return DataLoader(
        range(len(lengths)),  # type: ignore[arg-type]
        batch_sampler=LengthGroupedBatchSampler(lengths, 16, seed=5),
        collate_fn=torch.tensor,
    )


def test_a_resumed_epoch_continues_with_its_own_batches(lengths: np.ndarray) -> None:
    """What the Trainer does on resume: skip in a prepared loader, set the epoch on loader and sampler."""
    whole = Accelerator(cpu=True).prepare_data_loader(loader_of_rows(lengths))
    epochs = []
    for epoch in range(3):
        whole.set_epoch(epoch)
        epochs.append([batch.tolist() for batch in whole])
    assert epochs[1] != epochs[2]

    prepared = Accelerator(cpu=True).prepare_data_loader(loader_of_rows(lengths))
    resumed = skip_first_batches(prepared, 10)
    resumed.set_epoch(1)
    resumed.batch_sampler.batch_sampler.set_epoch(1)
    assert [batch.tolist() for batch in resumed] == epochs[1][10:]
    prepared.set_epoch(2)
    assert [batch.tolist() for batch in prepared] == epochs[2]


def test_processes_share_an_epoch_without_overlap(lengths: np.ndarray) -> None:
    """The sampler is asked for its batch size and drop_last; without them rows are shared out wrongly."""
    shares = [
        BatchSamplerShard(
            LengthGroupedBatchSampler(lengths, 16, seed=5),
            num_processes=2,
            process_index=i,
            even_batches=False,
        )
        for i in range(2)
    ]
    rows = [row for share in shares for batch in share for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    loader = prepare_data_loader(loader_of_rows(lengths), num_processes=2, process_index=0)
    assert loader.total_batch_size == 32


@pytest.fixture(scope="module")
def mixed(lengths: np.ndarray) -> LengthGroupedBatchSampler:
    """Three tasks of very different sizes, one behind the other."""
    lengths = lengths[:-5]  # no whole number of batches
    sizes = [1200, 400, len(lengths) - 1600]
    return LengthGroupedBatchSampler(
        lengths, 16, seed=3, mixture=TaskMixture(sizes, task_probabilities(sizes, 0.5), seed=3)
    )


def batches_of(sampler: LengthGroupedBatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_batch_of_a_mixture_is_full_and_holds_what_was_drawn(mixed: LengthGroupedBatchSampler) -> None:
    """Catches an epoch that reads other rows than its mixture drew, or fewer."""
    assert mixed.mixture is not None
    for epoch in range(2):
        batches = batches_of(mixed, epoch)
        assert len(batches) == len(mixed) == -(-len(mixed.lengths) // 16)
        assert {len(batch) for batch in batches} == {16}
        drawn = mixed.mixture.rows(epoch, 16 * len(batches))
        assert Counter(row for batch in batches for row in batch) == Counter(drawn.tolist())


def test_batches_mix_the_tasks_and_come_in_no_order_of_them(mixed: LengthGroupedBatchSampler) -> None:
    """Catches batches of one task each, and a task that is trained on last, where it is remembered best."""
    task_of = np.repeat([0, 1, 2], [1200, 400, len(mixed.lengths) - 1600])
    batches = batches_of(mixed, 0)
    several = [len({int(task_of[row]) for row in batch}) > 1 for batch in batches]
    assert np.mean(several) > 0.95
    shares = np.array([np.mean(task_of[batch] == 0) for batch in batches])
    assert abs(np.corrcoef(np.arange(len(shares)), shares)[0, 1]) < 0.3


def test_a_mixture_is_padded_as_little_as_one_task(mixed: LengthGroupedBatchSampler) -> None:
    """Padding is paid in time only: no other test would notice a mixture that stopped grouping."""
    batches = batches_of(mixed, 0)
    real = sum(int(mixed.lengths[batch].sum()) for batch in batches)
    padded = sum(int(mixed.lengths[batch].max()) * len(batch) for batch in batches)
    assert padded / real <= 1.06


def test_the_order_of_a_mixture_depends_on_seed_and_epoch_alone(mixed: LengthGroupedBatchSampler) -> None:
    """Catches a mixture that remembers what it gave: a resumed run asks for epoch 2 without having read 0 and 1."""
    epochs = [batches_of(mixed, epoch) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    sizes = [1200, 400, len(mixed.lengths) - 1600]
    fresh = LengthGroupedBatchSampler(
        mixed.lengths, 16, seed=3, mixture=TaskMixture(sizes, task_probabilities(sizes, 0.5), seed=3)
    )
    assert batches_of(fresh, 2) == epochs[2]
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # type: ignore[index]
    other = LengthGroupedBatchSampler(
        mixed.lengths, 16, seed=4, mixture=TaskMixture(sizes, task_probabilities(sizes, 0.5), seed=4)
    )
    assert batches_of(other, 2) != epochs[2]
