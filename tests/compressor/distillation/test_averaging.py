"""The mean of several models' weights: exact, tied weights stay tied, unlike models are named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressor.distillation.averaging import mean_state, shape_difference


def states(seed: int, number: int, dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"weight": torch.randn(3, 2, generator=generator).to(dtype)} for _ in range(number)]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_the_mean_equals_that_of_all_states_at_once(seed: int, number: int) -> None:
    """Catches a running mean with the wrong count, which weighs the first or the last run twice."""
    parts = states(seed, number)
    stacked = torch.stack([part["weight"] for part in parts]).double()
    rounding = number * torch.finfo(torch.float32).eps / 2 * float(stacked.abs().max())  # once per part, float32
    found = mean_state(parts)["weight"].double()
    torch.testing.assert_close(found, stacked.mean(dim=0), rtol=0, atol=rounding)


def test_low_precision_is_averaged_in_high_precision() -> None:
    """Catches a mean accumulated in bf16, whose rounding is as large as the differences between runs."""
    parts = states(0, 101, torch.bfloat16)
    found = mean_state(parts)["weight"]
    exact = torch.stack([part["weight"] for part in parts]).double().mean(dim=0)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.to(torch.bfloat16))


def test_the_given_states_are_left_as_they_are_and_buffers_of_numbers_are_the_firsts() -> None:
    """Catches a mean taken in place of the first run's weights, and averaged position numbers."""
    first = {"weight": torch.zeros(2), "positions": torch.arange(3)}
    second = {"weight": torch.ones(2), "positions": torch.arange(3)}
    found = mean_state(iter([first, second]))
    assert found["weight"].tolist() == [0.5, 0.5]
    assert found["positions"].tolist() == [0, 1, 2]
    assert found["positions"].dtype == torch.int64
    assert first["weight"].tolist() == [0.0, 0.0]


class Tied(nn.Module):
    """Two names for one weight."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight


def test_tied_weights_stay_tied() -> None:
    """Catches two names of one weight that get different values: which of them wins would depend on the order."""
    models = [Tied(seed) for seed in range(3)]
    found = mean_state(model.state_dict() for model in models)
    assert torch.equal(found["first.weight"], found["second.weight"])
    target = Tied(9)
    target.load_state_dict(found)
    assert target.first.weight is target.second.weight
    assert torch.equal(target.first.weight, found["first.weight"])


def test_unlike_states_are_refused_with_the_tensor_that_differs() -> None:
    """Catches a mean over the tensors that happen to be in both."""
    weight = {"weight": torch.zeros(2)}
    with pytest.raises(ValueError, match="only one of them has the tensor 'extra'"):
        mean_state([weight, {**weight, "extra": torch.zeros(1)}])
    with pytest.raises(ValueError, match=r"'weight' has the shape \[2\] in one and \[3\] in the other"):
        mean_state([weight, {"weight": torch.zeros(3)}])
    with pytest.raises(ValueError, match="no state"):
        mean_state([])
    assert shape_difference({"a": [1, 2]}, {"a": (1, 2)}) is None
