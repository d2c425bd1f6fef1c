"""Weights at some shares of a training: which steps they are of, where they lie, and that they outlive a kill."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compressor.distillation.training import TrainingJob, train
from compressor.distillation.weights.states import StatesAtShares
from compressor.models.checkpoint import load_checkpoint
from compressor.recipe import TrainingSettings

SHARES = (0.1, 0.4, 0.8)
HEAD = "heads.topic_head.classifier.weight"
OFTEN = TrainingSettings(steps=10, learning_rate=1e-3, dtype="fp32", device="cpu", threads=1, checkpoint_seconds=1e-6)


class Killed(Exception):
    """The process ends here."""


class Remembering(StatesAtShares):
    """Writes down the head after every step, and is killed instead of the one behind `last`."""

    def __init__(self, heads: dict[int, Tensor], last: int | None) -> None:
        super().__init__(SHARES)
        self.heads, self.steps = heads, list[int]()
        self._last = last

    def after_step(self, model: nn.Module, step: int) -> None:
        """As the rule does."""
        if self._last is not None and step > self._last:
            raise Killed
        super().after_step(model, step)
        self.steps.append(step)
        self.heads.setdefault(step, dict(model.named_parameters())[HEAD].detach().clone())


def told(rule: StatesAtShares, model: nn.Linear, steps: range) -> None:
    """Steps that set the weight to their number."""
    for step in steps:
        with torch.no_grad():
            model.weight.fill_(float(step))
        rule.after_step(model, step)


def kept(rule: StatesAtShares) -> dict[str, float]:
    return {name: float(tensors[0].mean()) for name, tensors in rule.others().items()}


@pytest.mark.parametrize(("steps", "at"), [(20, (2, 8, 16)), (10, (1, 4, 8)), (3, (1, 1, 2))])
def test_each_state_is_that_after_its_share_of_the_steps(steps: int, at: tuple[int, ...]) -> None:
    """Catches states that are all the last one, views of weights that move on, and a state before the first step."""
    rule, model = StatesAtShares(SHARES), nn.Linear(2, 2)
    rule.start(model, steps)
    told(rule, model, range(1, steps + 1))
    rule.finish(model, lambda _model: {})
    assert kept(rule) == dict(zip(("state-10", "state-40", "state-80"), at, strict=True))
    assert (model.weight == steps).all()


@pytest.mark.parametrize("stop", [1, 2, 5, 8, 19])
def test_a_restored_rule_has_the_states_before_and_takes_those_after(stop: int, tmp_path: Path) -> None:
    """Catches states that a checkpoint forgets, and a file that only this process could read."""
    whole, restored, model = StatesAtShares(SHARES), StatesAtShares(SHARES), nn.Linear(2, 2)
    whole.start(model, 20)
    told(whole, model, range(1, stop + 1))
    torch.save(whole.state(), tmp_path / "rule.pt")
    restored.start(model, 20)
    restored.load_state(torch.load(tmp_path / "rule.pt", weights_only=True))
    for rule in (whole, restored):
        told(rule, model, range(stop + 1, 21))
    assert kept(restored) == kept(whole) == {"state-10": 2.0, "state-40": 8.0, "state-80": 16.0}


def test_a_killed_training_leaves_the_states_of_an_uninterrupted_one(
    job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    """Catches folders of other weights than their name says, and states of before a kill that are lost by it."""
    heads: dict[int, Tensor] = {}
    for folder, last in (("whole", None), ("killed", 6), ("killed", None)):
        asked = job({"kd": {}}, OFTEN)
        rule = Remembering(heads, last)
        (tmp_path / folder).mkdir(exist_ok=True)
        with pytest.raises(Killed) if last else contextlib.nullcontext():
            train(replace(asked, plan=replace(asked.plan, rule=rule)), tmp_path / folder)
    assert rule.steps == [7, 8, 9, 10], "it goes on where it was killed"
    for name, step in {"state-10": 1, "state-40": 4, "state-80": 8, "": 10}.items():
        whole, killed = (load_checkpoint(tmp_path / folder / name).state_dict() for folder in ("whole", "killed"))
        assert torch.equal(whole[HEAD], heads[step])
        assert all(torch.equal(tensor, killed[key]) for key, tensor in whole.items())
