"""Rules for the kept weights, on a model that moves at random."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from compressor.distillation.plan import build_plan
from compressor.distillation.presets import parse_method_text
from compressor.distillation.weights.average import model_tensors
from compressor.distillation.weights.rule import WeightRule
from compressor.distillation.weights.swa import StochasticWeightAverage, choose, steps_between


def rule_of(text: str) -> WeightRule:
    return build_plan(parse_method_text(text), patience=None).rule


def swa_of(text: str) -> StochasticWeightAverage:
    rule = rule_of(text)
    assert isinstance(rule, StochasticWeightAverage)
    return rule


def walk(model: nn.Linear, number: int, *, seed: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Random steps; yields the step and the weight after it."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, number + 1):
        with torch.no_grad():
            model.weight += 0.3 * torch.randn(model.weight.shape, generator=generator)
        yield step, model.weight.detach().clone()


def run(rule: WeightRule, model: nn.Linear, number: int) -> list[Tensor]:
    """A training without a loss; the weights w_0 .. w_N."""
    stored = [model.weight.detach().clone()]
    rule.start(model, number)
    for step, weight in walk(model, number):
        stored.append(weight)
        rule.after_step(model, step)
    return stored


def validation(loss: float, score: float) -> dict[str, float]:
    return {"topic_loss": loss, "topic_accuracy": score, "score": score}


@pytest.mark.parametrize(("start", "every", "number"), [(0.5, 1, 10), (0.5, 3, 20), (0.3, 4, 11), (0.0, 2, 9)])
def test_the_average_is_the_mean_of_the_phases_snapshots(start: float, every: int, number: int) -> None:
    """Catches a phase without its starting point, snapshots one step off, and w_0 lost where the phase is the run."""
    rule, model = swa_of(f"swa:start={start}:every={every}"), nn.Linear(4, 3)
    stored = run(rule, model, number)
    first = int(start * number)
    snapshots = stored[first::every]
    assert rule.mean.count == len(snapshots) == (number - first) // every + 1
    rule.finish(model, lambda _model: validation(1.0, 0.5))
    wanted = torch.stack(snapshots).double().mean(dim=0)
    torch.testing.assert_close(model.weight.detach().double(), wanted, rtol=0, atol=1e-6)
    assert torch.equal(rule.others()["last"][0], stored[-1])
    facts = rule.facts()["swa"]
    assert (facts["start"], facts["every"], facts["snapshots"]) == (first, every, len(snapshots))


def test_snapshots_are_taken_every_step_in_short_runs_and_a_hundred_times_in_long_ones() -> None:
    """Catches an average that costs a long run something, and one of a single snapshot in a short run."""
    assert [steps_between(None, steps) for steps in (10, 999, 1000, 25_000)] == [1, 1, 10, 250]
    assert steps_between(7, 25_000) == 7


@pytest.mark.parametrize(
    ("average", "last", "selected"),
    [
        (validation(0.4, 0.7), validation(0.5, 0.9), "average"),
        (validation(0.5, 0.9), validation(0.4, 0.7), "last"),
        (validation(0.4, 0.7), validation(0.4, 0.9), "last"),
        (validation(0.4, 0.9), validation(0.4, 0.7), "average"),
        (validation(0.4, 0.7), validation(0.4, 0.7), "average"),
    ],
)
@pytest.mark.parametrize("keep", ["average", "last", "selected"])
def test_selection_goes_by_loss_then_metric_and_only_where_it_is_asked_for(
    keep: str, average: dict[str, float], last: dict[str, float], selected: str
) -> None:
    """Catches selection by metric first, candidates mixed up, and a choice that nobody asked for."""
    rule, model = swa_of(f"swa:keep={keep}"), nn.Linear(4, 3)
    stored = run(rule, model, 10)
    mean = torch.stack(stored[5:]).mean(dim=0)

    def validate(asked: nn.Module) -> Mapping[str, float]:
        assert isinstance(asked, nn.Linear)
        return last if torch.equal(asked.weight, stored[-1]) else average

    rule.finish(model, validate)
    kept = selected if keep == "selected" else keep
    facts = rule.facts()["swa"]
    assert (facts["always_average"], facts["always_last"]) == (average, last)
    assert (facts["selected"], facts["kept"]) == (selected, kept)
    torch.testing.assert_close(model.weight.detach(), mean if kept == "average" else stored[-1])
    assert rule.others().keys() == ({"last"} if kept == "average" else {"last", "average"})
    torch.testing.assert_close(rule.others().get("average", [mean])[0], mean)
    assert rule.name == ("mean of 6 (swa)" if kept == "average" else "last (swa)")


def test_the_loss_of_several_tasks_is_their_mean() -> None:
    """Catches a selection by the first task alone."""
    average = {"a_loss": 1.0, "b_loss": 0.1, "score": 0.0}
    assert choose(average, {"a_loss": 0.9, "b_loss": 0.4, "score": 1.0}) == "average"


def test_the_self_ensemble_is_the_mean_of_all_steps_but_the_start() -> None:
    """Catches a mean with w_0 in it, or without w_1."""
    rule, model = rule_of("se"), nn.Linear(4, 3)
    stored = run(rule, model, 12)
    rule.finish(model, lambda _model: {})
    torch.testing.assert_close(model.weight.detach(), torch.stack(stored[1:]).mean(dim=0), rtol=0, atol=1e-6)
    assert rule.facts() == {"se": {"snapshots": 12}}
    assert rule.name == "mean of 12 (se)"


def test_the_exponential_mean_counts_steps_by_their_age() -> None:
    """Catches an exponential mean that a short run's start dominates."""
    rule, model = rule_of("ema:decay=0.7"), nn.Linear(4, 3)
    stored = run(rule, model, 12)
    rule.finish(model, lambda _model: {})
    counts = torch.tensor([0.7 ** (12 - step) for step in range(1, 13)])
    wanted = torch.tensordot(counts / counts.sum(), torch.stack(stored[1:]), dims=1)
    torch.testing.assert_close(model.weight.detach(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("text", ["swa", "swa:every=3", "swa:start=0", "se", "ema:decay=0.9"])
@pytest.mark.parametrize("stop", [1, 5, 6, 9, 10])
def test_a_restored_rule_goes_on_as_if_nothing_had_happened(text: str, stop: int) -> None:
    """Catches a count or a mean that a checkpoint forgets, and a start that is averaged again on resume."""
    whole, model = rule_of(text), nn.Linear(4, 3)
    restored, again = rule_of(text), copy.deepcopy(model)
    whole.start(model, 10)
    for step, weight in walk(model, 10):
        whole.after_step(model, step)
        if step == stop:
            restored.start(again, 10)
            restored.load_state(copy.deepcopy(whole.state()))
        with torch.no_grad():
            again.weight.copy_(weight)
        if step > stop:
            restored.after_step(again, step)
    for rule, of_rule in ((whole, model), (restored, again)):
        rule.finish(of_rule, lambda _model: validation(1.0, 0.5))
    assert torch.equal(model.weight, again.weight)
    assert whole.facts() == restored.facts()


@pytest.mark.parametrize("text", ["swa:every=1", "swa:every=3", "se", "ema"])
def test_a_rule_holds_one_copy(text: str) -> None:
    """Catches a snapshot that is held beside the mean: bytes of all live tensors are counted."""
    rule, model = rule_of(text), nn.Linear(40, 30)
    own = sum(tensor.nbytes for tensor in model_tensors(model))
    stored = run(rule, model, 20)
    del stored
    held = live_bytes()
    del rule
    assert held - live_bytes() == own


def live_bytes() -> int:
    """Bytes of the different storages of all tensors that are alive."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if issubclass(type(found), Tensor)]
    return sum({s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors)}.values())
