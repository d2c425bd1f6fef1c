"""The training loop: what it sums, how it accumulates, what it leaves out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compressor.data.splits import ADDED, Split, TaskData
from compressor.distillation.presets import PRESETS, parse_method_text
from compressor.distillation.trainer import MARKER, DistillationTrainer, newest_checkpoint
from compressor.distillation.training import TrainingJob, _tokens, _validate, train
from compressor.recipe import TrainingSettings

TrainerOf = Callable[[TrainingJob], DistillationTrainer]
FAST = TrainingSettings(epochs=2, learning_rate=1e-3, batch_size=8, dtype="fp32", device="cpu", threads=1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def trained(job: TrainingJob, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    train(job, folder)
    return weights(folder)


def curve(folder: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((folder / "history.json").read_text())["curve"]
    return found


def test_kd_of_weight_zero_is_the_control_bit_for_bit(job: Callable[..., TrainingJob], tmp_path: Path) -> None:
    """Catches a soft term, or unlabelled texts, that act although their weight is 0."""
    control = trained(job({"none": {}}), tmp_path / "none")
    zero = trained(job({"kd": {"alpha": 0.0, "temperature": 7.0}}), tmp_path / "zero")
    real = trained(job({"kd": {"alpha": 0.7}}), tmp_path / "real")
    assert all(torch.equal(control[name], zero[name]) for name in control)
    assert any(not torch.equal(control[name], real[name]) for name in control)


@pytest.mark.parametrize("sizes", [[4], [1, 1, 1, 1], [2, 2], [3, 1]])
@pytest.mark.parametrize("text", ["kd:alpha=0.5", "l2a:weight=0.5", "bam+l2a:weight=0.5"])
def test_accumulated_micro_batches_equal_one_batch(
    text: str, sizes: list[int], with_added: TaskData, job: Callable[..., TrainingJob], trainer_of: TrainerOf
) -> None:
    """Catches a loss scaled by the number of micro-batches, and an unequal last one that counts too much."""
    trainer = trainer_of(job(text, FAST.model_copy(update={"batch_size": 1}), dropout=False, data=with_added))
    trainer.state.global_step = trainer.args.max_steps // 2
    examples = [trainer.loader.dataset[index] for index in (0, 110, 100, 115)]  # own, added, without label, added
    ends = np.cumsum(sizes)
    parts = [examples[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    torch.testing.assert_close(loss_and_norm(trainer, [examples]), loss_and_norm(trainer, parts))


def test_added_rows_weigh_gamma_in_a_training_step(
    with_added: TaskData, job: Callable[..., TrainingJob], trainer_of: TrainerOf
) -> None:
    """Catches a training that no longer tells added rows from own ones: every gamma but 0 would be 1."""
    whole, quarter = (trainer_of(job(f"l2a:weight={weight}", dropout=False, data=with_added)) for weight in (1, 0.25))
    own, added = (20, 40, 60, 80), (108, 110, 115, 119)
    alone = [loss_and_norm(whole, [[whole.loader.dataset[row] for row in some]])[0] for some in (own, added)]
    both = loss_and_norm(quarter, [[quarter.loader.dataset[row] for row in (*own, *added)]])[0]
    torch.testing.assert_close(both, (alone[0] + 0.25 * alone[1]) / 2)


@pytest.fixture
def with_added(toy_data: TaskData) -> TaskData:
    """The toy task with 12 added texts behind its 108 own ones."""
    added = Split(toy_data.splits["test"].texts[:12])
    return dataclasses.replace(toy_data, splits={**toy_data.splits, ADDED: added})


def loss_and_norm(trainer: DistillationTrainer, parts: list[list[Any]]) -> torch.Tensor:
    """Loss and gradient norm of an optimizer step whose micro-batches have these examples."""
    trainer.model.zero_grad()
    batches = [trainer.loader.collate_fn(part) for part in parts]
    count = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    losses = [trainer.training_step(trainer.model, batch, count) for batch in batches]
    norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1e9)
    return torch.stack([torch.stack(losses).sum(), norm])


def test_gradient_accumulation_trains_like_the_larger_batch(job: Callable[..., TrainingJob], tmp_path: Path) -> None:
    """Catches accumulation that is right for one step but wrong through the whole loop (steps, schedule)."""
    small = FAST.model_copy(update={"batch_size": 108, "gradient_accumulation": 1, "epochs": 3})
    whole = trained(job({"kd": {}}, small, dropout=False), tmp_path / "whole")
    parts = FAST.model_copy(update={"batch_size": 25, "gradient_accumulation": 5, "epochs": 3})
    accumulated = trained(job({"kd": {}}, parts, dropout=False), tmp_path / "parts")
    for name in whole:
        torch.testing.assert_close(whole[name], accumulated[name], rtol=0, atol=2e-5)


def test_unlabelled_texts_teach_by_the_soft_term_only(
    job: Callable[..., TrainingJob], toy_data: TaskData, tmp_path: Path
) -> None:
    """Catches unlabelled texts that reach the control, or that make the gold loss NaN."""
    with_texts = trained(job({"kd": {}}), tmp_path / "with")
    assert all(torch.isfinite(tensor).all() for tensor in with_texts.values())
    bare = dataclasses.replace(
        toy_data, splits={name: rows for name, rows in toy_data.splits.items() if name != "unlabelled"}
    )
    kd = job({"kd": {}})
    labelled = {"topic": kd.targets["topic"][: len(bare.splits["train"])]}
    without = trained(dataclasses.replace(kd, data={"topic": bare}, targets=labelled), tmp_path / "without")
    assert any(not torch.equal(with_texts[name], without[name]) for name in without)
    control = trained(job({"none": {}}), tmp_path / "control")
    bare_control = trained(dataclasses.replace(job({"none": {}}), data={"topic": bare}), tmp_path / "bare")
    assert all(torch.equal(control[name], bare_control[name]) for name in control)


def test_early_stopping_keeps_the_best_validated_epoch(job: Callable[..., TrainingJob], tmp_path: Path) -> None:
    """Catches weights of the last epoch sold as those of the best one."""
    patient = FAST.model_copy(update={"epochs": 30, "early_stopping": 2, "learning_rate": 3e-3})
    folder = tmp_path / "run"
    stopped = job({"none": {}}, patient)
    trained(stopped, folder)
    scores = [row["eval_score"] for row in curve(folder) if "eval_score" in row]
    assert len(scores) < 30
    assert scores.index(max(scores)) == len(scores) - 3
    tokens = {"topic": _tokens(stopped, stopped.data["topic"].splits["validation"].texts)}
    assert _validate(stopped.model, stopped, tokens)["score"] == max(scores)


def test_the_loss_falls_and_the_topic_is_learned(job: Callable[..., TrainingJob], tmp_path: Path) -> None:
    """Catches a loop that runs but does not learn."""
    long = FAST.model_copy(update={"epochs": 20, "learning_rate": 3e-3})
    trained(job({"none": {}}, long), tmp_path / "run")
    rows = curve(tmp_path / "run")
    losses = [row["loss"] for row in rows if "loss" in row]
    scores = [row["eval_topic_accuracy"] for row in rows if "eval_topic_accuracy" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert scores[-1] > 0.6


def test_frequent_checkpoints_and_validation_do_not_change_the_weights(
    job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    """Catches a checkpoint or a validation that moves the random state of the training."""
    rare = trained(job({"kd": {}}), tmp_path / "rare")
    often = trained(job({"kd": {}}, FAST.model_copy(update={"checkpoint_seconds": 1e-6})), tmp_path / "often")
    assert all(torch.equal(rare[name], often[name]) for name in rare)
    assert not list((tmp_path / "often").glob("checkpoints/*")) or (tmp_path / "often" / "checkpoints").is_dir()


COMPOSITIONS = [
    "kd+sda:k=all+swa:every=1:keep=selected",
    "sdv:k=2+ema:decay=0.9",
    "bam+sda:k=2+se",
    "none",
    "kd",
    "sda",
    "sda:k=3+swa:every=2",
    "sda:ema=0.8+se",
    "sda:k=3:snapshots=cpu",
    "sda:teacher=current",
    "sdv:k=3:snapshots=cpu+swa:start=0.34:keep=last",
    "kd+se",
    "bam:annealing=constant+swa:every=2",
    "ema",
]
QUICK = 2


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, marks=pytest.mark.slow if row >= QUICK else ()) for row, text in enumerate(COMPOSITIONS)],
)
def test_every_single_checkpoint_of_every_method_leads_to_the_same_run(
    text: str, job: Callable[..., TrainingJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an average, a past student, a count or a schedule that a checkpoint forgets; the same losses follow."""
    settings = FAST.model_copy(update={"batch_size": 36, "learning_rate": 3e-3, "checkpoint_seconds": 1e-6})
    kept = keep_checkpoints(tmp_path, monkeypatch)
    whole = trained(job(text, settings), tmp_path / "whole")
    monkeypatch.undo()
    assert len(list(kept.iterdir())) == 5
    for checkpoint in kept.iterdir():
        folder = resumable(checkpoint, tmp_path)
        train(job(text, settings), folder)
        assert all(torch.equal(tensor, weights(folder)[name]) for name, tensor in whole.items()), checkpoint.name
        assert told(folder) == told(tmp_path / "whole"), checkpoint.name


def told(folder: Path) -> dict[str, object]:
    """All that a run says of itself, but how long it took."""
    found: dict[str, object] = json.loads((folder / "history.json").read_text())
    return {key: value for key, value in found.items() if key != "seconds"}


def test_every_registered_method_is_resumed_in_some_composition() -> None:
    """Catches a new method whose checkpoints nobody tries."""
    tried = {name for text in COMPOSITIONS for name in parse_method_text(text)}
    assert tried == {name for name, preset in PRESETS.items() if preset.place in ("targets", "weights")}


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


def resumable(checkpoint: Path, folder: Path) -> Path:
    """A training folder whose only checkpoint is this one, with the decisions of the whole run."""
    resumed = folder / f"from-{checkpoint.name}"
    shutil.copytree(checkpoint, resumed / "checkpoints" / checkpoint.name)
    shutil.copy(folder / "whole" / "training.json", resumed)
    return resumed


def test_every_single_checkpoint_leads_to_the_same_weights(
    job: Callable[..., TrainingJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a checkpoint taken between an epoch's last step and its validation, or after early stopping spoke."""
    settings = FAST.model_copy(
        update={"batch_size": 18, "epochs": 5, "early_stopping": 1, "learning_rate": 3e-3, "checkpoint_seconds": 1e-6}
    )
    kept = keep_checkpoints(tmp_path, monkeypatch)
    whole = trained(job({"kd": {}}, settings), tmp_path / "whole")
    monkeypatch.undo()
    assert len(list(kept.iterdir())) >= 6
    scores = [row["eval_score"] for row in curve(tmp_path / "whole") if "eval_score" in row]
    for checkpoint in kept.iterdir():
        folder = resumable(checkpoint, tmp_path)
        train(job({"kd": {}}, settings), folder)
        assert all(torch.equal(tensor, weights(folder)[name]) for name, tensor in whole.items()), checkpoint.name
        assert [row["eval_score"] for row in curve(folder) if "eval_score" in row] == scores


def test_only_checkpoints_with_a_marker_count(tmp_path: Path) -> None:
    """Catches resuming from a checkpoint that a killed process left half-written."""
    for step, complete in ((10, True), (20, True), (30, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if complete:
            (folder / MARKER).touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-20"
    assert not (tmp_path / "checkpoint-30").exists()
    assert newest_checkpoint(tmp_path / "nothing") is None


def test_texts_that_are_cut_are_counted_and_said(
    job: Callable[..., TrainingJob], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches half-read texts that nobody is told of."""
    trained(dataclasses.replace(job({"none": {}}), max_length=6), tmp_path / "short")
    said = capsys.readouterr().err
    cut = json.loads((tmp_path / "short" / "history.json").read_text())["truncated_texts"]["topic"]
    assert 0 < cut <= 96
    assert f"topic: {cut} of 96 training texts are longer than max_length 6 and were cut" in said
    trained(job({"none": {}}), tmp_path / "long")
    assert "were cut" not in capsys.readouterr().err
