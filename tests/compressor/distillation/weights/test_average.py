"""Averages of weights in float32 copies of our own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compressor.distillation.weights.average import (
    WeightMean,
    decayed_share,
    frozen_copy,
    hold,
    holding,
    model_tensors,
    move_towards,
)


def noisy(model: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def test_a_mean_equals_that_of_stored_snapshots() -> None:
    """Catches a wrong share in the incremental form, and rounding that gathers."""
    model, generator, mean = nn.Linear(6, 4), torch.Generator().manual_seed(0), WeightMean()
    stored: list[list[torch.Tensor]] = []
    for _ in range(500):
        noisy(model, generator)
        mean.add(model)
        stored.append([tensor.detach().double() for tensor in model.parameters()])
    for position, found in enumerate(mean.tensors):
        wanted = torch.stack([weights[position] for weights in stored]).mean(dim=0)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)


def test_narrow_weights_are_averaged_in_float32_and_wide_ones_in_their_own_type() -> None:
    """Catches a bf16 average, which after 500 steps of 0.001 has not moved at all."""
    narrow, wide, mean, wide_mean = nn.Linear(1, 1).bfloat16(), nn.Linear(1, 1).double(), WeightMean(), WeightMean()
    values = torch.linspace(1.0, 1.5, 500)
    for value in values:
        for model, of_model in ((narrow, mean), (wide, wide_mean)):
            nn.init.constant_(model.weight, float(value))
            of_model.add(model)
    assert mean.tensors[0].dtype == torch.float32
    assert wide_mean.tensors[0].dtype == torch.float64
    assert float(mean.tensors[0]) == pytest.approx(float(values.bfloat16().float().mean()), abs=1e-5)
    assert float(wide_mean.tensors[0]) == pytest.approx(float(values.double().mean()), abs=1e-12)
    assert narrow.weight.dtype == torch.bfloat16


def test_weights_that_do_not_move_are_averaged_exactly() -> None:
    """Catches rounding in embedding rows that no training text uses."""
    model, mean = nn.Linear(50, 50), WeightMean()
    for _ in range(100):
        mean.add(model)
    assert torch.equal(mean.tensors[0], model.weight)


def test_integers_are_copied_floating_buffers_averaged_and_tied_weights_counted_once() -> None:
    """Catches a counter of 1.5, and a tied weight that is averaged twice."""
    first, second, counting = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
    second.weight = first.weight
    model, mean = nn.Sequential(first, second, counting), WeightMean()
    for value in (1, 2, 4):
        counting.get_buffer("num_batches_tracked").fill_(value)
        counting.get_buffer("running_mean").fill_(float(value))
        mean.add(model)
    assert len(mean.tensors) == len(model_tensors(model)) == 3 + 2 + 3
    hold(model_tensors(model), mean.tensors)
    assert int(counting.get_buffer("num_batches_tracked")) == 4
    torch.testing.assert_close(counting.get_buffer("running_mean"), torch.full((3,), 7.0 / 3.0))
    assert second.weight is first.weight


def test_a_decay_near_one_is_the_mean_and_one_near_zero_the_latest() -> None:
    """Catches an exponential mean whose start counts more than it should."""
    assert [decayed_share(count, 1.0 - 1e-9) for count in (1, 2, 5)] == pytest.approx([1.0, 0.5, 0.2])
    assert [decayed_share(count, 0.0) for count in (1, 2, 5)] == [1.0, 1.0, 1.0]
    assert decayed_share(2, 0.5) == pytest.approx(2.0 / 3.0)


def test_a_model_holds_other_weights_only_for_a_while() -> None:
    """Catches weights that stay behind after validation, also when validation fails, and a mean that it changes."""
    model, mean = nn.Linear(2, 2), WeightMean()
    mean.add(model)
    noisy(model, torch.Generator().manual_seed(0))
    before, average = copy.deepcopy(model.state_dict()), mean.tensors[0].clone()

    def failing_validation() -> None:
        with holding(model, mean.tensors):
            assert torch.equal(model.weight, average)
            raise RuntimeError("validation failed")

    with pytest.raises(RuntimeError, match="validation"):
        failing_validation()
    assert torch.equal(model.weight, before["weight"])
    assert torch.equal(mean.tensors[0], average)


def test_a_frozen_copy_shares_nothing_and_is_wide_enough() -> None:
    """Catches a teacher that trains along, or that holds its average in bf16."""
    model = nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.Dropout(0.5))
    second = frozen_copy(model)
    assert not second.training
    assert [parameter.requires_grad for parameter in second.parameters()] == [False, False]
    assert {tensor.dtype for tensor in model_tensors(second)} == {torch.float32}
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    move_towards(model_tensors(second), [tensor + 1 for tensor in model_tensors(model)], 0.5)
    torch.testing.assert_close(model_tensors(second)[0], model_tensors(model)[0].float() + 0.5, rtol=0, atol=1e-2)
