"""Layer-wise rates in a training: the optimizer, the schedule, and heads that a batch does not speak to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer

from compressor.distillation.trainer import DistillationTrainer
from compressor.distillation.training import TrainingJob, train
from compressor.recipe import TrainingSettings

FAST = TrainingSettings(epochs=2, learning_rate=3e-3, batch_size=16, dtype="fp32", device="cpu", threads=1)
LAYERED = FAST.model_copy(update={"layer_decay": 0.5, "head_learning_rate": 1e-2, "weight_decay": 0.01})
MakeJob = Callable[..., TrainingJob]


def trained(job: TrainingJob, folder: Path) -> dict[str, Tensor]:
    folder.mkdir()
    train(job, folder)
    return load_file(folder / "model.safetensors")


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("settings", [LAYERED, FAST.model_copy(update={"weight_decay": 0.1})])
def test_a_batch_of_one_task_leaves_the_other_heads_alone(
    settings: TrainingSettings, several: MakeJob, trainer_of: Callable[[TrainingJob], DistillationTrainer]
) -> None:
    """Catches gradients of zero: moments fade, weight decay shrinks, and a head drifts while it learns nothing."""
    trainer = trainer_of(several("bam", settings))
    optimizer, heads = trainer.optimizer, trainer.model.heads
    assert optimizer is not None
    everything = [trainer.loader.dataset[index] for index in (0, 70, 150)]
    take_step(trainer, everything)  # moments for every head
    parameters = [*heads["flags_head"].parameters(), *heads["urgency_head"].parameters()]
    before = [(parameter.detach().clone(), state_of(optimizer, parameter)) for parameter in parameters]
    own = heads["topic_head"].classifier.weight.detach().clone()
    take_step(trainer, everything[:1])
    assert all(parameter.grad is None for parameter in parameters)
    for parameter, (weights, state) in zip(parameters, before, strict=True):
        assert torch.equal(parameter, weights)
        assert state
        now = state_of(optimizer, parameter)
        assert all(torch.equal(state[name], now[name]) for name in state)
    assert not torch.equal(heads["topic_head"].classifier.weight, own)


def take_step(trainer: DistillationTrainer, examples: list[Any]) -> None:
    batch = trainer.loader.collate_fn(examples)
    assert trainer.optimizer is not None
    trainer.optimizer.zero_grad()
    trainer.training_step(trainer.model, batch, torch.tensor(len(examples)))
    trainer.optimizer.step()


def state_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in optimizer.state[parameter].items()}


def test_the_schedule_multiplies_every_peak(
    several: MakeJob, trainer_of: Callable[[TrainingJob], DistillationTrainer]
) -> None:
    """Catches a constant tail of swa that lifts the embeddings to the heads' rate."""
    trainer = trainer_of(several("bam+swa:rate=0.25", LAYERED))
    optimizer = trainer.optimizer
    assert optimizer is not None
    peaks = [group["lr"] for group in optimizer.param_groups]
    assert set(peaks) == {1e-2, *(3e-3 * 0.5**above for above in (1, 2, 3, 4))}
    scheduler = trainer.create_scheduler(100, optimizer)
    for expected in (0.0, 0.25):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected * peak for peak in peaks])
        for _ in range(80):
            optimizer.step()
            scheduler.step()


def test_one_rate_for_all_is_the_optimizer_of_the_trainer(
    several: MakeJob, trainer_of: Callable[[TrainingJob], DistillationTrainer], tmp_path: Path
) -> None:
    """Catches groups that are made although nobody asked, and groups that train otherwise than one."""
    plain = several("bam", FAST.model_copy(update={"weight_decay": 0.01}))
    trainer = trainer_of(plain)
    found = trainer.optimizer
    assert found is not None
    trainer.optimizer = None
    theirs = Trainer.create_optimizer(trainer)
    for own, other in zip(found.param_groups, theirs.param_groups, strict=True):
        assert {key: value for key, value in own.items() if key != "params"} == {
            key: value for key, value in other.items() if key != "params"
        }
        assert [id(parameter) for parameter in own["params"]] == [id(parameter) for parameter in other["params"]]
    as_groups = FAST.model_copy(update={"weight_decay": 0.01, "head_learning_rate": FAST.learning_rate})
    first = trained(several("bam", FAST.model_copy(update={"weight_decay": 0.01})), tmp_path / "plain")
    assert same(first, trained(several("bam", as_groups), tmp_path / "groups"))
    assert not same(first, trained(several("bam", LAYERED), tmp_path / "layered"))
