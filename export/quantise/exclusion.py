"""Leaving the worst layers in fp32 until the gate on the metric holds.

Greedy: layers are ranked once by the logits' error when that layer alone is quantised; one after the other becomes
fp32, at most `MAX_LAYERS`, and the gate is asked after each. The ranking reads training texts, the gate reads
validation texts. An undecided gate is treated as one that does not hold: fewer changed answers narrow its interval, so
fp32 layers can decide it. When no step makes the gate hold, nothing is excluded: bytes and time would be paid for a
proof that still fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from export.gates import Gate, has_passed
from serving.exclusion import Exclusion, ExclusionStep

MAX_LAYERS = 6


def search(
    judge: Callable[[Sequence[str]], Gate], rank: Callable[[], Sequence[str]], *, allow_inconclusive: bool
) -> Exclusion:
    """Exclude layers until the gate holds.

    Args:
        judge: the gate when these layers are fp32.
        rank: layers in the order they are tried; asked only where the gate does not hold at once.
        allow_inconclusive: whether an undecided gate holds.

    Returns:
        The exclusion; without layers where none was needed, or none was enough.
    """
    gate = judge([])
    steps = [_step(None, gate)]
    if has_passed([gate], allow_inconclusive=allow_inconclusive):
        return Exclusion(mode="auto", steps=tuple(steps), note="the gate holds with every layer quantised")
    chosen: list[str] = []
    for layer in rank()[:MAX_LAYERS]:
        chosen.append(layer)
        gate = judge(chosen)
        steps.append(_step(layer, gate))
        if has_passed([gate], allow_inconclusive=allow_inconclusive):
            return Exclusion(mode="auto", layers=tuple(chosen), steps=tuple(steps), note=_success(steps))
    return Exclusion(mode="auto", steps=tuple(steps), note=_failure(steps))


def _step(layer: str | None, gate: Gate) -> ExclusionStep:
    return ExclusionStep(layer=layer, metric_drop=gate.measured, low=gate.low, high=gate.high, verdict=gate.verdict)


def _success(steps: Sequence[ExclusionStep]) -> str:
    why = "is undecided" if steps[0].verdict == "inconclusive" else "fails"
    number = len(steps) - 1
    return f"with every layer quantised the gate {why}; with {number} layer{'s' * (number > 1)} in fp32 it holds"


def _failure(steps: Sequence[ExclusionStep]) -> str:
    number = len(steps) - 1
    if steps[0].verdict == "inconclusive":
        return (
            "the validation texts are too few to decide the gate with every layer quantised, and with as many as "
            f"{number} layers in fp32; so none is left in fp32"
        )
    return f"the gate does not hold, not even with {number} layers in fp32; so none is left in fp32"
