"""The exponential mean of the weights after every step: a control of SWA [ours].

The counts decay^(N - s) of w_1 .. w_N are divided by their sum, so a short run is not dominated by its start, and
a decay near 1 gives the self-ensemble.
"""

from __future__ import annotations

from compressor.distillation.presets import EmaKnobs
from compressor.distillation.weights.se import MeanOfAllSteps


class ExponentialMean(MeanOfAllSteps):
    """Keeps the mean of w_1 .. w_N in which weights s steps old count decay^s."""

    key = "ema"

    def __init__(self, knobs: EmaKnobs) -> None:
        super().__init__()
        self.decay = knobs.decay
