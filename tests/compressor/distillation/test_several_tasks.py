"""Students of several tasks: how they are mixed, annealed, resumed, and what each head is spared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compressor.data.order import LengthGroupedBatchSampler
from compressor.distillation.targets.gold import GoldLabels
from compressor.distillation.targets.term import TaskBatch
from compressor.distillation.trainer import DistillationTrainer
from compressor.distillation.training import TrainingJob, train
from compressor.recipe import TrainingSettings

FAST = TrainingSettings(epochs=2, learning_rate=3e-3, batch_size=16, dtype="fp32", device="cpu", threads=1)
LAYERED = FAST.model_copy(update={"layer_decay": 0.5, "head_learning_rate": 1e-2, "weight_decay": 0.01})
MakeJob = Callable[..., TrainingJob]


def without_teacher(job: TrainingJob, task: str) -> TrainingJob:
    """The job with a task that has neither targets nor texts without label."""
    data = dict(job.data)
    data[task] = data[task].without_unlabelled()
    return replace(job, data=data, targets={name: found for name, found in job.targets.items() if name != task})


def trained(job: TrainingJob, folder: Path) -> dict[str, Tensor]:
    folder.mkdir()
    train(job, folder)
    return load_file(folder / "model.safetensors")


def history(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "history.json").read_text())
    return found


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@dataclass(frozen=True)
class Witness:
    """Gold labels that write down what they are told."""

    seen: list[tuple[float, str, int]] = field(default_factory=list)
    name: str = "witness"
    reads_teacher = True

    def loss(self, batch: TaskBatch) -> Tensor:
        """As gold labels; one entry per task and micro-batch."""
        self.seen.append((batch.progress, batch.task.type, len(batch.logits)))
        return GoldLabels().loss(batch)


def watched(job: TrainingJob) -> tuple[TrainingJob, Witness]:
    witness = Witness()
    return replace(job, plan=replace(job.plan, terms=(witness,))), witness


def progresses(witness: Witness) -> list[float]:
    """In order, without the repetitions by task and micro-batch."""
    return list(dict.fromkeys(progress for progress, _, _ in witness.seen))


def test_labels_of_all_weight_equal_the_control_bit_for_bit(several: MakeJob, tmp_path: Path) -> None:
    """Catches a control with another sampling, other groups or another loss than the method held against it."""
    control = trained(several("none", LAYERED), tmp_path / "none")
    gold = trained(several("bam:annealing=constant:constant=1", LAYERED), tmp_path / "gold")
    annealed = trained(several("bam", LAYERED), tmp_path / "annealed")
    assert same(control, gold)
    assert not same(control, annealed)
    assert all(torch.isfinite(tensor).all() for tensor in annealed.values())


def test_no_teacher_at_all_would_be_the_control_and_is_refused(several: MakeJob, tmp_path: Path) -> None:
    """Catches targets that got lost on the way: kd and bam would train on labels, and say they did not."""
    job = several("bam")
    for wrong, said in (
        (replace(job, targets={}), "no targets for any task"),
        (replace(job, targets={**job.targets, "other": job.targets["topic"]}), "targets for 'other'"),
        (replace(job, targets={"topic": job.targets["topic"]}), "'flags' has texts without label, but no targets"),
    ):
        with pytest.raises(RuntimeError, match=said):
            train(wrong, tmp_path)


@pytest.mark.parametrize("method", ["kd", "bam"])
def test_tasks_with_and_without_teacher_train_side_by_side(method: str, several: MakeJob, tmp_path: Path) -> None:
    """Catches a task without teacher that is not learned, or that takes the others' teacher away."""
    some = trained(without_teacher(several(method), "flags"), tmp_path / "some")
    start = several(method).model.state_dict()
    assert all(not torch.equal(some[name], start[name]) for name in some if name.startswith("heads.flags_head."))
    changed = without_teacher(several(method), "flags")
    other = {**changed.targets, "topic": -changed.targets["topic"]}
    assert not same(some, trained(replace(changed, targets=other), tmp_path / "other"))


def test_progress_is_that_of_the_optimizer_step_for_all_its_micro_batches(several: MakeJob, tmp_path: Path) -> None:
    """Catches an annealing by micro-batches, which is at its end after a third of the training."""
    settings = FAST.model_copy(update={"batch_size": 8, "gradient_accumulation": 3})
    job, witness = watched(several("kd", settings))
    trained(job, tmp_path / "run")
    num_steps = history(tmp_path / "run")["steps"]
    assert num_steps == -(-2 * 180 // 24) == 15
    assert progresses(witness) == [step / num_steps for step in range(num_steps)]
    rows = dict.fromkeys(progresses(witness), 0)
    for progress, _, number in witness.seen:
        rows[progress] += number
    assert list(rows.values())[:7] == [24] * 7
    assert sum(rows.values()) >= 2 * 180 - 24


def test_tasks_are_mixed_by_the_exponent_and_the_rows_that_are_read(
    several: MakeJob, trainer_of: Callable[[TrainingJob], DistillationTrainer]
) -> None:
    """Catches methods of one report whose sampling differs, and texts without label that count though unread."""
    for text, sizes in (("none", (48, 48, 48)), ("sda", (48, 48, 48)), ("kd", (60, 60, 60)), ("bam", (60, 60, 60))):
        mixture = mixture_of(trainer_of(several(text)))
        assert mixture.sizes == sizes
    uneven = without_teacher(several("kd", FAST.model_copy(update={"task_exponent": 1.0})), "flags")
    assert mixture_of(trainer_of(uneven)).probabilities.tolist() == pytest.approx([60 / 168, 48 / 168, 60 / 168])
    orders = []
    for text in ("none", "se", "sda+swa"):
        sampler = trainer_of(several(text)).loader.batch_sampler
        assert sampler is not None
        orders.append(list(sampler))
    assert orders[0] == orders[1] == orders[2]


def mixture_of(trainer: DistillationTrainer) -> Any:
    sampler = trainer.loader.batch_sampler
    assert isinstance(sampler, LengthGroupedBatchSampler)
    return sampler.mixture


def test_the_encoder_runs_once_per_mixed_batch(several: MakeJob, tmp_path: Path) -> None:
    """Catches a pass per task: nothing differs but the time, which grows with every task."""
    job, witness = watched(several("bam"))
    calls: list[int] = []
    job.model.encoder.register_forward_hook(lambda module, *_: calls.append(1) if module.training else None)
    trained(job, tmp_path / "run")
    found = history(tmp_path / "run")
    assert len(calls) == found["steps"] == -(-2 * 180 // 16)
    assert len(witness.seen) > 2 * len(calls)  # nearly every batch has rows of all three tasks


@pytest.mark.parametrize("sizes", [[4], [1, 1, 1, 1], [2, 2], [3, 1]])
@pytest.mark.parametrize("text", ["bam", "kd"])
def test_accumulated_mixed_micro_batches_equal_one_batch(
    text: str, sizes: Sequence[int], several: MakeJob, trainer_of: Callable[[TrainingJob], DistillationTrainer]
) -> None:
    """Catches a mean per task or per micro-batch: it would undo the exponent, or count a small last batch too much."""
    trainer = trainer_of(without_teacher(several(text, dropout=False), "flags"))
    trainer.state.global_step = trainer.args.max_steps // 2
    examples = [trainer.loader.dataset[index] for index in (0, 55, 70, 150)]  # one of them without label
    ends = np.cumsum(sizes)
    parts = [examples[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    found = [loss_and_norm(trainer, [trainer.loader.collate_fn(part) for part in cut]) for cut in ([examples], parts)]
    torch.testing.assert_close(found[0], found[1])


def loss_and_norm(trainer: DistillationTrainer, batches: list[Any]) -> Tensor:
    trainer.model.zero_grad()
    count = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    losses = [trainer.training_step(trainer.model, batch, count) for batch in batches]
    norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1e9)
    return torch.stack([torch.stack(losses).sum(), norm])


@pytest.mark.parametrize("text", ["bam+swa:every=1", pytest.param("bam+sda:k=2+ema", marks=pytest.mark.slow)])
def test_every_checkpoint_of_several_tasks_leads_to_the_same_run(
    text: str, several: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches batches, a weight of the labels or a rate of a layer that a resumed run begins anew."""
    settings = LAYERED.model_copy(
        update={"batch_size": 12, "gradient_accumulation": 3, "checkpoint_seconds": 1e-6, "epochs": 2}
    )
    kept = keep_checkpoints(tmp_path, monkeypatch)
    whole = trained(several(text, settings), tmp_path / "whole")
    monkeypatch.undo()
    steps = history(tmp_path / "whole")["steps"]
    assert steps == 10
    assert len(list(kept.iterdir())) == steps - 1
    for checkpoint in (kept / f"checkpoint-{step}" for step in (2, 5, 8)):  # inside and at the end of an epoch
        taken = int(checkpoint.name.split("-")[1])
        job, witness = several(text, settings), Witness()
        job = replace(job, plan=replace(job.plan, terms=(*job.plan.terms, Silent(witness))))
        folder = tmp_path / f"from-{checkpoint.name}"
        shutil.copytree(checkpoint, folder / "checkpoints" / checkpoint.name)
        shutil.copy(tmp_path / "whole" / "training.json", folder)
        train(job, folder)
        assert same(whole, load_file(folder / "model.safetensors")), checkpoint.name
        assert progresses(witness) == [step / steps for step in range(taken, steps)]
        assert history(folder)["curve"][-1] == history(tmp_path / "whole")["curve"][-1]


@dataclass(frozen=True)
class Silent:
    """A term that only lets a witness see."""

    witness: Witness
    name: str = "silent"
    reads_teacher = False

    def loss(self, batch: TaskBatch) -> Tensor:
        """Nothing."""
        self.witness.loss(batch)
        return batch.logits.new_zeros(())


def keep_checkpoints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """From now on every checkpoint is copied to the folder that is returned."""
    kept = folder / "kept"
    save = DistillationTrainer._save_checkpoint

    def save_and_keep(self: DistillationTrainer, model: torch.nn.Module, trial: object) -> None:
        save(self, model, trial)
        newest = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if newest.is_dir():
            shutil.copytree(newest, kept / newest.name)

    monkeypatch.setattr(DistillationTrainer, "_save_checkpoint", save_and_keep)
    return kept
