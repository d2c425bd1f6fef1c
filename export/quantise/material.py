"""What quantisation learns from: training texts for ranges and ranking, validation texts for the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from export.quantise.clipping import METHODS
from export.sample import Sample
from serving.errors import UserError
from serving.manifest import TaskSpec
from serving.tokenise import Encoding, TextEncoder

DEFAULT_RANGES = "mse"
RANKING_TEXTS = 48
"""Texts on which layers are compared: each costs two runs per layer."""


class QuantiseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The recipe's choices; see `compressor.recipe.ExportSettings`.

    Attributes:
        exclude: auto, none, or names, roles or patterns of layers that stay fp32.
        ranges: a key of `clipping.METHODS`, for int8_static.
        metric_drop: limit of the gate that auto works for.
        allow_inconclusive: whether an undecided gate holds.
    """

    exclude: Literal["auto", "none"] | tuple[str, ...] = "none"
    ranges: str = DEFAULT_RANGES
    metric_drop: float = 0.01
    allow_inconclusive: bool = False

    def __post_init__(self) -> None:
        """UserError for a way of choosing ranges that does not exist."""
        if self.ranges not in METHODS:
            raise UserError(f"no export.ranges '{self.ranges}'. Choose one of: {', '.join(METHODS)}")


@dataclass(frozen=True)
class Material:
    """Labelled texts per task.

    Attributes:
        calibration: training texts: ranges, and which layers are sensitive.
        validation: what the gate is asked on.
    """

    calibration: Mapping[str, Sample] = field(default_factory=dict)
    validation: Mapping[str, Sample] = field(default_factory=dict)

    def calibration_encodings(self, encoder: TextEncoder) -> list[Encoding]:
        """All calibration texts, tokenised; UserError when there is none."""
        texts = [text for sample in self.calibration.values() for text in sample.texts]
        if not texts:
            raise UserError(
                "int8_static and fp16 look at real texts, and none were given. Give training texts to calibrate on, "
                "or leave these precisions out."
            )
        return encoder.encode(texts)

    def ranking_samples(self, tasks: Sequence[TaskSpec]) -> dict[str, Sample]:
        """A few calibration texts of every task."""
        rows = max(1, RANKING_TEXTS // len(tasks))
        return {name: sample.first(rows) for name, sample in self.calibration.items()}


@dataclass(frozen=True)
class Quantising:
    """How a graph is quantised.

    Attributes:
        settings: what stays fp32, how ranges are chosen.
        material: texts; without them nothing is excluded by itself, and int8_static and fp16 cannot be made.
    """

    settings: QuantiseSettings = field(default_factory=QuantiseSettings)
    material: Material = field(default_factory=Material)
