"""SWA, SE and EMA in whole trainings: schedule, trajectory, what is kept and what lies on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from compressor.data.splits import TaskData
from compressor.distillation.training import TrainingJob, _tokens, _validate, train, weights_digest
from compressor.distillation.weights.last import Last
from compressor.distillation.weights.rule import WeightRule
from compressor.distillation.weights.swa import StochasticWeightAverage
from compressor.models.checkpoint import load_checkpoint
from compressor.models.predict import predict_logits
from compressor.recipe import TrainingSettings

Jobs = Callable[..., TrainingJob]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def trained(job: TrainingJob, folder: Path) -> dict[str, Tensor]:
    folder.mkdir()
    train(job, folder)
    return weights(folder)


def history(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "history.json").read_text())
    return found


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


class Watching(WeightRule):
    """Keeps all iterates and what another rule makes of them."""

    def __init__(self, rule: WeightRule) -> None:
        self.rule = rule
        self.iterates: list[dict[str, Tensor]] = []

    def start(self, model: nn.Module, num_steps: int) -> None:
        """w_0."""
        self.iterates = [copied(model)]
        self.rule.start(model, num_steps)

    def after_step(self, model: nn.Module, step: int) -> None:
        """w_step."""
        self.iterates.append(copied(model))
        self.rule.after_step(model, step)

    def finish(self, model: nn.Module, validate: Any) -> None:
        """As the rule that is watched."""
        self.rule.finish(model, validate)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def watched(job: TrainingJob) -> tuple[TrainingJob, Watching]:
    rule = Watching(job.plan.rule)
    return dataclasses.replace(job, plan=dataclasses.replace(job.plan, rule=rule)), rule


@pytest.mark.parametrize("text", ["swa:every=2:start=0.4", "kd+sda+swa"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_kept_weights_are_the_mean_of_the_phases_iterates(
    text: str, accumulation: int, job: Jobs, fast: TrainingSettings, tmp_path: Path
) -> None:
    """Catches an average per micro-batch, one in bf16, one step off, or of compacted embeddings put back wrongly."""
    settings = fast.model_copy(update={"gradient_accumulation": accumulation, "epochs": 3})
    watching, rule = watched(job(text, settings))
    trained(watching, tmp_path / "run")
    steps = history(tmp_path / "run")["steps"]
    assert len(rule.iterates) == steps + 1
    assert isinstance(rule.rule, StochasticWeightAverage)
    share, every = (0.4, 2) if "0.4" in text else (0.5, 1)
    phase = rule.iterates[int(share * steps) :: every]
    assert rule.rule.mean.count == len(phase) == (steps - int(share * steps)) // every + 1
    used = sorted({0, *token_ids(watching, "train"), *token_ids(watching, "validation")})
    for name, found in copied(watching.model).items():
        wanted = torch.stack([iterate[name].double() for iterate in phase]).mean(dim=0)
        rows = found[used] if "word_embeddings" in name else found
        torch.testing.assert_close(rows.double(), wanted, rtol=0, atol=1e-6)


def token_ids(job: TrainingJob, split: str) -> set[int]:
    return {int(token) for token in _tokens(job, job.data["topic"].splits[split].texts).input_ids}


@pytest.mark.parametrize(
    ("text", "dtype"), [("kd+swa:every=1", "fp32"), ("sda+swa:every=2", "bf16"), ("se", "bf16"), ("ema", "fp32")]
)
def test_averaging_leaves_the_trajectory_alone(
    text: str, dtype: str, job: Jobs, fast: TrainingSettings, tmp_path: Path
) -> None:
    """Catches an average that writes into the weights it reads, or moves the optimizer or the random state."""
    settings = fast.model_copy(update={"dtype": dtype, "batch_size": 24})
    averaging, rule = watched(job(text, settings))
    trained(averaging, tmp_path / "averaged")
    plain = job(text, settings)
    plain = dataclasses.replace(plain, plan=dataclasses.replace(plain.plan, rule=Last()))
    plain, control = watched(plain)
    trained(plain, tmp_path / "plain")
    assert len(rule.iterates) == len(control.iterates)
    assert all(same(one, other) for one, other in zip(rule.iterates, control.iterates, strict=True))


def test_the_learning_rate_is_exactly_constant_after_the_start(
    job: Jobs, fast: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a tail that begins a step late or early, and a warm-up that the tail forgot."""
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    trained(job("swa:rate=0.6:start=0.5", fast), tmp_path / "run")
    assert len(rates) == 24
    assert rates[12:] == [1e-3 * 0.6] * 12
    assert rates[:3] == pytest.approx([0.0, 0.5e-3, 1e-3])
    assert np.diff(rates[2:13]) == pytest.approx(np.full(10, -0.4e-3 / 10))


@pytest.mark.parametrize("keep", ["average", "last"])
def test_the_folder_holds_the_kept_weights_and_the_last_ones(
    keep: str, job: Jobs, fast: TrainingSettings, tmp_path: Path
) -> None:
    """Catches the last iterate sold as the average, and word rows of one in the checkpoint of the other."""
    watching, rule = watched(job(f"swa:every=1:keep={keep}", fast))
    watching = dataclasses.replace(watching, plan=dataclasses.replace(watching.plan, rule=rule.rule))
    kept = trained(watching, tmp_path / "run")
    last = weights(tmp_path / "run" / "last")
    assert same(kept, last) == (keep == "last")
    average = weights(tmp_path / "run" / "average") if keep == "last" else kept
    assert not same(average, last)
    control = trained(job("swa:every=5:keep=last", fast), tmp_path / "control")
    assert same(control, last)
    words = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(average[words], last[words])


def test_rows_of_words_that_no_text_uses_stay_as_they_were(
    job: Jobs, fast: TrainingSettings, toy_data: TaskData, tmp_path: Path
) -> None:
    """Catches averaging that reaches, or loses, embedding rows outside the compacted table."""
    splits = {
        name: dataclasses.replace(part, texts=[(text.replace("thanks", "help"),) for (text,) in part.texts])
        for name, part in toy_data.splits.items()
    }
    composed = job("sda:k=all+swa:every=1", fast, data=dataclasses.replace(toy_data, splits=splits))
    used = sorted(token_ids(composed, "train") | token_ids(composed, "validation"))
    unused = sorted(set(range(20)) - {0, *used})
    assert unused == [19]
    words = "embeddings.word_embeddings.weight"
    before = composed.model.encoder.get_parameter(words).detach().clone()
    trained(composed, tmp_path / "run")
    for folder in (tmp_path / "run", tmp_path / "run" / "last"):
        after = weights(folder)[f"bert.{words}"]
        assert torch.equal(after[unused], before[unused])
        assert all(not torch.equal(after[row], before[row]) for row in used)


def test_what_was_saved_answers_as_what_was_in_memory(job: Jobs, fast: TrainingSettings, tmp_path: Path) -> None:
    """Catches a checkpoint of other weights than those that were validated."""
    composed = job("kd+swa:every=2", fast)
    trained(composed, tmp_path / "run")
    tokens = {"topic": _tokens(composed, composed.data["topic"].splits["validation"].texts)}
    ours = predict_logits(composed.model, tokens["topic"], "topic", pad_id=0)
    facts = history(tmp_path / "run")["swa"]
    for folder, figures in ((tmp_path / "run", "always_average"), (tmp_path / "run" / "last", "always_last")):
        loaded = load_checkpoint(folder)
        assert _validate(loaded, composed, tokens) == pytest.approx(facts[figures], abs=1e-6)
    np.testing.assert_array_equal(
        predict_logits(load_checkpoint(tmp_path / "run"), tokens["topic"], "topic", pad_id=0), ours
    )


def test_the_history_tells_of_the_phase_and_of_the_start(job: Jobs, fast: TrainingSettings, tmp_path: Path) -> None:
    """Catches a report that cannot say what was averaged, and runs from other initial weights averaged as one."""
    first, other = job("swa", fast), job("none", fast, seed=1)
    digest = weights_digest(first.model)
    trained(first, tmp_path / "swa")
    trained(other, tmp_path / "none")
    found = history(tmp_path / "swa")
    assert found["initial_weights"] == history(tmp_path / "none")["initial_weights"] == digest
    assert found["kept"] == "mean of 13 (swa)"
    assert found["swa"].keys() == {"start", "every", "snapshots", "always_average", "always_last", "selected", "kept"}
    assert (found["swa"]["start"], found["swa"]["every"], found["swa"]["snapshots"]) == (12, 1, 13)
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-6)
    assert weights_digest(other.model) != digest


def test_nothing_but_the_kept_weights_changes_with_what_is_kept(
    job: Jobs, fast: TrainingSettings, tmp_path: Path
) -> None:
    """Catches figures of the candidates that depend on the choice between them."""
    for keep in ("average", "last", "selected"):
        trained(job(f"swa:keep={keep}", fast), tmp_path / keep)
    facts = [history(tmp_path / keep)["swa"] for keep in ("average", "last", "selected")]
    for key in ("always_average", "always_last", "selected"):
        assert facts[0][key] == facts[1][key] == facts[2][key]
    assert facts[2]["kept"] == facts[2]["selected"]
