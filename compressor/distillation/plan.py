"""From a recipe's methods to what trains a student: the one place that knows methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compressor.distillation.augmentation.weight import AddedWeight
from compressor.distillation.presets import Knobs, check_early_stopping, knobs_of, methods_at
from compressor.distillation.targets.bam import bam_terms
from compressor.distillation.targets.gold import GoldLabels
from compressor.distillation.targets.kd import kd_terms
from compressor.distillation.targets.sda import sda_teacher
from compressor.distillation.targets.sdv import sdv_teacher
from compressor.distillation.targets.self_teacher import SelfDistance, SelfTeacher
from compressor.distillation.targets.term import LossTerm
from compressor.distillation.weights.best import BestOnValidation
from compressor.distillation.weights.ema import ExponentialMean
from compressor.distillation.weights.last import Last
from compressor.distillation.weights.rule import WeightRule
from compressor.distillation.weights.schedule import ConstantTail, Linear, Schedule
from compressor.distillation.weights.se import MeanOfAllSteps
from compressor.distillation.weights.swa import StochasticWeightAverage
from compressor.recipe import TrainingSettings
from serving.errors import UserError

SUPERVISIONS: dict[str, Callable[[Any], tuple[LossTerm, ...]]] = {
    "none": lambda _knobs: (GoldLabels(),),
    "kd": kd_terms,
    "bam": bam_terms,
}
SELF_TEACHERS: dict[str, Callable[[Any], SelfTeacher | None]] = {"sda": sda_teacher, "sdv": sdv_teacher}
RULES: dict[str, Callable[[Any], WeightRule]] = {
    "swa": StochasticWeightAverage,
    "se": lambda _knobs: MeanOfAllSteps(),
    "ema": ExponentialMean,
}
SCHEDULES: dict[str, Callable[[Any], Schedule]] = {"swa": lambda knobs: ConstantTail(knobs.start, knobs.rate)}


@dataclass(frozen=True)
class Plan:
    """How a student is trained.

    Attributes:
        terms: summands of the loss.
        rule: which weights are kept.
        self_teacher: the student as its own teacher, where a term reads it.
        schedule: of the learning rate.
        target_share: share of the rows that are a task's own, where texts were added; None: as many as there are.
    """

    terms: tuple[LossTerm, ...]
    rule: WeightRule
    self_teacher: SelfTeacher | None = None
    schedule: Schedule = field(default_factory=Linear)
    target_share: float | None = None

    @property
    def reads_teacher(self) -> bool:
        """Whether cached teacher logits, and the texts without label, take part."""
        return any(term.reads_teacher for term in self.terms)

    def check(self, *, num_steps: int, warmup_steps: int) -> None:
        """UserError when a training of so many optimizer steps cannot follow the plan."""
        self.schedule.check(num_steps=num_steps, warmup_steps=warmup_steps)
        self.rule.check(num_steps)
        if self.self_teacher is not None:
            self.self_teacher.check(num_steps)


def build_plan(methods: Mapping[str, Knobs], *, patience: int | None) -> Plan:
    """Join the methods; those that are made of several runs say nothing about one run.

    Args:
        methods: as `presets.parse_method` returns them; without a supervision the student has gold labels.
        patience: epochs of early stopping, or None to run all.

    Raises:
        UserError: early stopping beside another rule for the kept weights.
    """
    try:
        check_early_stopping(methods, patience)
    except ValueError as error:
        raise UserError(f"{error}.") from error
    supervision = next((name for name in methods if name in SUPERVISIONS), None)
    terms = list(SUPERVISIONS[supervision](knobs_of(methods, supervision)) if supervision else (GoldLabels(),))
    teacher = _self_teacher(methods, terms)
    rule = next((RULES[name](knobs_of(methods, name)) for name in methods if name in RULES), None)
    schedule = next((SCHEDULES[name](knobs_of(methods, name)) for name in methods if name in SCHEDULES), Linear())
    added = next((knobs_of(methods, name) for name in methods_at(methods, "texts")), None)
    if added is not None and added.weight not in (0.0, 1.0):
        terms = [AddedWeight(term, added.weight) for term in terms]
    return Plan(
        tuple(terms),
        rule or (Last() if patience is None else BestOnValidation(patience)),
        teacher,
        schedule,
        target_share=added.target_share if added else None,
    )


def _self_teacher(methods: Mapping[str, Knobs], terms: list[LossTerm]) -> SelfTeacher | None:
    """The methods' self-teacher; its term joins the others."""
    for name in methods:
        if name in SELF_TEACHERS:
            knobs = knobs_of(methods, name)
            teacher = SELF_TEACHERS[name](knobs)
            if teacher is not None:
                terms.append(SelfDistance(knobs.weight))
            return teacher
    return None


def planned_steps(num_examples: Sequence[int], settings: TrainingSettings) -> int:
    """Optimizer steps of a training.

    Args:
        num_examples: rows that every task reads. One task is read pass by pass, and each ends with a step of its own;
            of several, rows are drawn, in all as many as the epochs hold [ours]. Added texts do not count: they
            make no training longer.
        settings: epochs or steps, batch and accumulation.
    """
    if settings.steps is not None:
        return settings.steps
    if len(num_examples) > 1:
        return -(-settings.epochs * sum(num_examples) // (settings.batch_size * settings.gradient_accumulation))
    micro_batches = -(-sum(num_examples) // settings.batch_size)
    return settings.epochs * -(-micro_batches // settings.gradient_accumulation)


def warmup_steps(settings: TrainingSettings, num_steps: int) -> int:
    """Steps with a rising learning rate."""
    return round(settings.warmup * num_steps)


def check_plan(methods: Mapping[str, Knobs], settings: TrainingSettings, num_steps: int) -> None:
    """UserError when the methods cannot be trained so; meant to be called before anything is trained.

    Args:
        methods: as `presets.parse_method` returns them.
        settings: of the student.
        num_steps: as `planned_steps` counts them.
    """
    plan = build_plan(methods, patience=settings.early_stopping)
    plan.check(num_steps=num_steps, warmup_steps=warmup_steps(settings, num_steps))
