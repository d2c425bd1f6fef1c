"""What is kept of a rung of the ladder."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from export.churn import Churn
from export.gates import Gate
from serving.claims import Interval, Invariance, Parity

TORCH = "torch"
TOKENS = "tokens"
PLAIN = "plain"
FP32 = "fp32"


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One rung held against another model, on one task.

    Attributes:
        parity: of the logits and answers.
        metric_drop: the other's metric minus this rung's on the validation texts, paired, with its 95% interval;
            None where it is undefined.
        churn: the answers that changed, on the validation texts; None where some are missing.
    """

    parity: Parity
    metric_drop: Interval | None
    churn: Churn | None = None


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """One graph of the ladder, or the tokens that all of them are fed.

    Attributes:
        name: tokens, plain, or a precision.
        sha256: of the file that was measured; empty for the tokens.
        made_from: what it is held against besides torch: the rung that it was made from.
        problem: why it could not be measured, or gave no logits somewhere; None where it did.
        comparisons: against `torch` and `made_from`, per task.
        invariance: per task, a text alone against the same text in company; empty where it was not measured.
        gates: of this rung.
        passed: whether its gates passed, all that it needs were asked, and so were those of the rungs above.
    """

    name: str
    sha256: str = ""
    made_from: str = TORCH
    problem: str | None = None
    comparisons: Mapping[str, Mapping[str, Comparison]] = {}
    invariance: Mapping[str, Invariance] = {}
    gates: tuple[Gate, ...] = ()
    passed: bool = False
