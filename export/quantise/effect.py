"""What quantising some layers changes."""

from __future__ import annotations

import msgspec


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What some quantised layers change, against fp32 on the same texts.

    Attributes:
        squared_error: mean squared logit difference.
        metric_change: the metric minus fp32's; negative where quality was lost, of several tasks the worst. None
            where the metric is undefined on so few texts.
        answers_changed: share of the texts with another answer.
    """

    squared_error: float
    metric_change: float | None
    answers_changed: float
