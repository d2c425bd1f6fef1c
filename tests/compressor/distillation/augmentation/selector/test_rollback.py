"""A rollback puts everything back, item by item, byte for byte."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from compressor.distillation.augmentation.selector.rollback import Rollback


class Loader:
    """Knows which batch comes next."""

    def __init__(self) -> None:
        self.position = 3
        self.seen = [0, 1, 2]

    def state_dict(self) -> dict[str, Any]:
        """Shares its list with the loader, as some do."""
        return {"position": self.position, "seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.position, self.seen = state_dict["position"], state_dict["seen"]


class Training:
    """A small network in the middle of its training."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(
                nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 6), nn.Linear(6, 2)
            )
        self.model[3].requires_grad_(False)
        self.model[3].eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.scheduler = LambdaLR(self.optimizer, lambda step: 1.0 / (1 + step))
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
        self.loader = Loader()
        self.generator = torch.Generator().manual_seed(1)
        self.numbers = np.random.default_rng(1)
        self.step()
        self.model[4].weight.grad = torch.ones(2, 6)

    def step(self) -> None:
        """An optimizer step that moves whatever can move."""
        features = torch.randn(8, 4, generator=self.generator) + float(self.numbers.normal())
        self.optimizer.zero_grad()
        loss = self.model(features).square().sum() * random.random() * np.random.random()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.loader.position += 1
        self.loader.seen.append(self.loader.position)

    def rollback(self) -> Rollback:
        """Of everything it has."""
        return Rollback(
            self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            scaler=self.scaler,
            loaders=[self.loader],
            generators=[self.generator, self.numbers],
        )


@pytest.fixture
def training() -> Training:
    """Restores the global random states behind itself."""
    return Training()


@pytest.fixture(autouse=True)
def _global_states() -> Any:
    states = (torch.get_rng_state(), np.random.get_state(), random.getstate())
    yield
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def data(tensor: Tensor | None) -> bytes | None:
    return None if tensor is None else tensor.detach().numpy().tobytes()


def optimizer_state(training: Training) -> Any:
    found = training.optimizer.state_dict()
    moments = {
        (row, name): data(torch.as_tensor(value))
        for row, held in found["state"].items()
        for name, value in held.items()
    }
    return moments, copy.deepcopy(found["param_groups"])


ITEMS: dict[str, Callable[[Training], Any]] = {
    "parameters": lambda training: [data(parameter) for parameter in training.model.parameters()],
    "buffers": lambda training: [data(buffer) for buffer in training.model.buffers()],
    "gradients": lambda training: [data(parameter.grad) for parameter in training.model.parameters()],
    "optimizer": optimizer_state,
    "schedule": lambda training: copy.deepcopy(training.scheduler.state_dict()),
    "scaler": lambda training: copy.deepcopy(training.scaler.state_dict()),
    "modes": lambda training: [module.training for module in training.model.modules()],
    "loader": lambda training: copy.deepcopy(training.loader.state_dict()),
    "torch generator": lambda training: training.generator.get_state().tolist(),
    "numpy generator": lambda training: copy.deepcopy(training.numbers.bit_generator.state),
    "torch global": lambda _training: torch.get_rng_state().tolist(),
    "numpy global": lambda _training: pickle.dumps(np.random.get_state()),
    "python global": lambda _training: random.getstate(),
}


def disturb(training: Training) -> None:
    """Two steps and then everything else that a full update does: modes, gradients, generators."""
    training.step()
    training.step()
    training.model[3].train()
    training.model[1].eval()
    training.model[0].weight.grad = None
    training.model[3].weight.grad = torch.ones(6, 6)


@pytest.mark.parametrize("item", ITEMS)
def test_a_rollback_restores(training: Training, item: str) -> None:
    """Catches a student that an episode leaves changed: each item alone, and that the update did change it."""
    before = ITEMS[item](training)
    with training.rollback():
        disturb(training)
        assert ITEMS[item](training) != before
    assert ITEMS[item](training) == before


def fail_within(training: Training) -> None:
    with training.rollback():
        disturb(training)
        raise ZeroDivisionError


@pytest.mark.parametrize("item", ITEMS)
def test_a_rollback_restores_after_an_error_too(training: Training, item: str) -> None:
    """Catches a full update that fails and leaves half of itself behind, and an error that is swallowed."""
    before = ITEMS[item](training)
    with pytest.raises(ZeroDivisionError):
        fail_within(training)
    assert ITEMS[item](training) == before


def test_a_gradient_that_was_none_is_none_again(training: Training) -> None:
    """Catches zeros in its place: an optimizer would decay and count a parameter that has no gradient."""
    training.optimizer.zero_grad(set_to_none=True)
    with training.rollback():
        training.step()
        assert training.model[0].weight.grad is not None
    assert all(parameter.grad is None for parameter in training.model.parameters())


def test_an_optimizer_that_had_taken_no_step_has_no_state_again(training: Training) -> None:
    """Catches moments that survive because there was nothing to put in their place."""
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=0.1)
    with training.rollback():
        training.step()
        assert training.optimizer.state_dict()["state"]
    assert not training.optimizer.state_dict()["state"]


def test_a_tensor_that_was_replaced_is_the_old_one_again(training: Training) -> None:
    """Catches an optimizer that goes on with parameters which the model no longer has."""
    weight, mean = next(training.model.parameters()), training.model[1].running_mean
    values = data(weight)
    with training.rollback():
        training.model[0].weight = nn.Parameter(torch.zeros(6, 4))
        training.model[1].running_mean = torch.zeros(6)
        training.model[1].register_buffer("extra", torch.zeros(1))
    assert training.model[0].weight is weight
    assert training.model[1].running_mean is mean
    assert data(next(training.model.parameters())) == values
    assert "extra" not in dict(training.model[1].named_buffers())


def test_a_rolled_back_training_goes_on_as_if_nothing_had_happened(training: Training) -> None:
    """Catches whatever the list forgot: the next steps must be those of a training without the episode."""
    twin = copy.deepcopy(training.model)
    states = {name: item(training) for name, item in ITEMS.items()}
    with training.rollback():
        training.step()
        first = ITEMS["parameters"](training)
    with training.rollback():
        training.step()
        second = ITEMS["parameters"](training)
    training.step()
    assert first == second == ITEMS["parameters"](training)
    assert states["parameters"] == [data(parameter) for parameter in twin.parameters()] != first


def test_a_rollback_can_be_used_twice(training: Training) -> None:
    """Catches a rollback that holds on to its first state, or shares it with what it restored."""
    rollback = training.rollback()
    for _ in range(2):
        before = {name: item(training) for name, item in ITEMS.items()}
        with rollback:
            disturb(training)
        assert {name: item(training) for name, item in ITEMS.items()} == before
        training.step()


def test_storage_is_kept(training: Training) -> None:
    """Catches parameters that point elsewhere, of which tied weights and compiled graphs would not know."""
    places = [parameter.data_ptr() for parameter in training.model.parameters()]
    with training.rollback():
        training.step()
    assert [parameter.data_ptr() for parameter in training.model.parameters()] == places


def test_a_model_alone_is_enough(training: Training) -> None:
    """Catches parts that are needed where there are none, and a disabled scaler that cannot be restored."""
    before = ITEMS["parameters"](training)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with Rollback(training.model), Rollback(training.model, scaler=scaler):
        training.step()
    assert ITEMS["parameters"](training) == before
