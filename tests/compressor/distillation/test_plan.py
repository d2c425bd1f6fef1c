"""From methods to terms, self-teacher, rule and schedule; what is refused before a training."""

from __future__ import annotations

import pytest

from compressor.distillation.plan import build_plan, check_plan, planned_steps
from compressor.distillation.presets import parse_method_text
from compressor.distillation.targets.gold import GoldLabels
from compressor.distillation.weights.best import BestOnValidation
from compressor.distillation.weights.last import Last
from compressor.distillation.weights.schedule import ConstantTail, Linear
from compressor.recipe import TrainingSettings
from serving.errors import UserError


def names(text: str) -> list[str]:
    return [term.name for term in build_plan(parse_method_text(text), patience=None).terms]


def test_methods_compose_at_their_places() -> None:
    """Catches a method that drops another one's term, and gold labels beside kd's own."""
    assert names("swa") == names("se") == ["gold"]
    assert names("sda") == names("sdv:k=2+ema") == ["gold", "self"]
    assert names("kd+sda+swa") == ["soft", "gold", "self"]
    plan = build_plan(parse_method_text("kd+sda:weight=1.5+swa:rate=0.25"), patience=None)
    assert getattr(plan.terms[2], "weight", None) == 1.5
    assert plan.reads_teacher
    assert plan.schedule == ConstantTail(0.5, 0.25)
    assert plan.rule.name == "mean of 0 (swa)"


def test_a_term_of_weight_zero_is_the_control_whatever_its_other_knobs() -> None:
    """Catches a teacher that is averaged, and asked, for nothing."""
    for text in ("sda:weight=0:k=all", "sda:weight=0:ema=0.9", "sda:weight=0:teacher=current", "sdv:weight=0:k=4"):
        plan = build_plan(parse_method_text(text), patience=None)
        assert plan.terms == (GoldLabels(),)
        assert plan.self_teacher is None
        assert plan.schedule == Linear()
        plan.check(num_steps=1, warmup_steps=0)


def test_early_stopping_is_a_rule_of_its_own() -> None:
    """Catches an average that early stopping silently replaces, or the reverse."""
    assert isinstance(build_plan({"none": {}}, patience=None).rule, Last)
    assert isinstance(build_plan({"sda": {}}, patience=2).rule, BestOnValidation)
    for name in ("swa", "se", "ema"):
        with pytest.raises(UserError, match=f"early_stopping is 2 beside '{name}': both say which weights are kept"):
            build_plan({"kd": {}, name: {}}, patience=2)


@pytest.mark.parametrize(
    ("text", "num_steps", "said"),
    [
        ("sda:k=11", 10, "sda.k is 11, but the training has only 10 optimizer steps"),
        ("kd+sdv:k=11", 10, "sdv.k is 11, but the training has only 10 optimizer steps"),
        ("swa:every=6", 10, "swa.every is 6, but only 5 of 10 steps lie in the averaging phase"),
        ("swa:start=0.05", 100, "swa.start 0.05 begins averaging after step 5 of 100, inside the warm-up of 10 steps"),
    ],
)
def test_plans_that_the_steps_have_no_room_for_are_refused(text: str, num_steps: int, said: str) -> None:
    """Catches a training that runs for hours and then has averaged nothing."""
    with pytest.raises(UserError) as caught:
        check_plan(parse_method_text(text), TrainingSettings(), num_steps)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["sda:k=10", "sdv:k=10", "swa:every=5", "swa:start=0.1", "swa", "se", "kd+ema+sda"])
def test_plans_that_just_fit_are_accepted(text: str) -> None:
    """Catches a check that is off by one."""
    check_plan(parse_method_text(text), TrainingSettings(), 10)


def test_steps_are_counted_as_the_training_takes_them() -> None:
    """Catches a check against steps that the training does not have: partial batches and accumulations count."""
    settings = TrainingSettings(epochs=3, batch_size=8, gradient_accumulation=4)
    assert [planned_steps([rows], settings) for rows in (1, 8, 32, 33, 64, 65)] == [3, 3, 3, 6, 6, 9]


def test_steps_of_several_tasks_are_their_rows_over_the_examples_of_a_step() -> None:
    """Golden: ceil(epochs * sum / batch); a step more per task and pass would anneal to elsewhere."""
    settings = TrainingSettings(epochs=3, batch_size=8, gradient_accumulation=4)
    assert [planned_steps(rows, settings) for rows in ([1, 1], [20, 12], [20, 13], [400, 30, 2])] == [1, 3, 4, 41]


def test_annealed_targets_run_to_their_end() -> None:
    """Catches early stopping that leaves the labels short of their weight, and says nothing."""
    for text in ("bam", "bam:annealing=off", "bam+sda"):
        with pytest.raises(UserError, match=r"early_stopping is 2 beside 'bam': a run that stops early ends before"):
            build_plan(parse_method_text(text), patience=2)
    assert names("bam+sda+swa") == ["annealed", "self"]
    assert names("bam:annealing=constant:constant=1") == ["gold"]
