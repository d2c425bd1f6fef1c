"""From a recipe's methods to loss terms and a weight rule: the one place that knows methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from compressor.distillation.presets import PRESETS, Knobs
from compressor.distillation.targets.gold import GoldLabels
from compressor.distillation.targets.kd import SoftTargets, kd_terms
from compressor.distillation.targets.term import LossTerm
from compressor.distillation.weights.best import BestOnValidation
from compressor.distillation.weights.last import Last
from compressor.distillation.weights.rule import WeightRule

TERMS: dict[str, Callable[[Any], tuple[LossTerm, ...]]] = {
    "none": lambda _knobs: (GoldLabels(),),
    "kd": kd_terms,
}


@dataclass(frozen=True)
class Plan:
    """How a student is trained.

    Attributes:
        terms: summands of the loss.
        rule: which weights are kept.
    """

    terms: tuple[LossTerm, ...]
    rule: WeightRule

    @property
    def reads_teacher(self) -> bool:
        """Whether cached teacher logits, and the texts without label, take part."""
        return any(isinstance(term, SoftTargets) for term in self.terms)


def build_plan(methods: Mapping[str, Knobs], *, patience: int | None) -> Plan:
    """Join the methods' terms.

    Args:
        methods: as `presets.parse_method` returns them.
        patience: epochs of early stopping, or None to run all and keep the last weights.
    """
    terms = [term for name, knobs in methods.items() for term in TERMS[name](PRESETS[name].knobs(**knobs))]
    return Plan(tuple(terms), Last() if patience is None else BestOnValidation(patience))
