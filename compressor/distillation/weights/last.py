"""The last iterate: nothing to remember."""

from __future__ import annotations

from compressor.distillation.weights.rule import WeightRule


class Last(WeightRule):
    """Keeps the weights after the last step."""

    name = "last"
