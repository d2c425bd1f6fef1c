"""The gates of a rung: which it needs, and what each of them says of what was measured.

fp32 graphs must hold torch's weights, repeat it logit by logit and do so in any company; other precisions must keep the
metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from export.churn import Churn
from export.gates import Gate, Limits, decide_gate, unmeasured_gate
from export.parity.climbed import Climbed
from export.parity.rungs import FP32, PLAIN, Comparison
from export.slices import MIN_ROWS

LOGITS_GATE = "export_logit_difference"
WEIGHTS_GATE = "export_weights"
INVARIANCE_GATE = "batch_invariance"
METRIC_GATE = "quantisation_metric_drop"
SLICE_GATE = "worst_slice_drop"


def required_gates(rung: str, limits: Limits) -> tuple[str, ...]:
    """Names of the gates that a rung cannot pass without."""
    if rung in (PLAIN, FP32):
        return (LOGITS_GATE, WEIGHTS_GATE, INVARIANCE_GATE)[: 3 if rung == FP32 else 2]
    return (METRIC_GATE,) if limits.worst_slice_drop is None else (METRIC_GATE, SLICE_GATE)


def gates_of(climbed: Climbed, to_torch: Mapping[str, Comparison], task: str, limits: Limits) -> Iterator[Gate]:
    """The required gates of a rung on one task; what was not measured has no value and fails.

    Args:
        climbed: what the graph said.
        to_torch: per task, its comparison with torch; empty where there is none.
        task: the task.
        limits: of the gates.
    """
    subject, problem = f"{climbed.name} {task}", climbed.problem
    found = None if problem else to_torch.get(task)
    for name in required_gates(climbed.name, limits):
        if name == LOGITS_GATE:
            yield _logits_gate(subject, found, limits.export_logit_difference, problem)
        elif name == WEIGHTS_GATE:
            yield _weights_gate(subject, climbed, task)
        elif name == INVARIANCE_GATE:
            yield _invariance_gate(subject, climbed, task, limits.batch_invariance)
        elif name == METRIC_GATE:
            yield _metric_gate(subject, found, limits.quantisation_metric_drop, problem)
        elif limits.worst_slice_drop is not None:
            yield _slice_gate(subject, found.churn if found else None, limits.worst_slice_drop, problem)


def _logits_gate(subject: str, found: Comparison | None, limit: float, problem: str | None) -> Gate:
    if found is None:
        return unmeasured_gate(LOGITS_GATE, subject, limit=limit, reason=problem)
    return decide_gate(LOGITS_GATE, subject, found.parity.max_difference, limit=limit)


def _weights_gate(subject: str, climbed: Climbed, task: str) -> Gate:
    lost = climbed.lost.get(task)
    if lost is None:
        return unmeasured_gate(WEIGHTS_GATE, subject, limit=0.0, reason=climbed.problem)
    gate = decide_gate(WEIGHTS_GATE, subject, len(lost), limit=0.0)
    return msgspec.structs.replace(gate, reason=f"not in the graph: {', '.join(lost)}" if lost else "")


def _invariance_gate(subject: str, climbed: Climbed, task: str, limit: float) -> Gate:
    found = climbed.invariance.get(task)
    if climbed.problem or found is None:
        return unmeasured_gate(INVARIANCE_GATE, subject, limit=limit, reason=climbed.problem)
    return decide_gate(INVARIANCE_GATE, subject, found.max_difference, limit=limit)


def _metric_gate(subject: str, found: Comparison | None, limit: float, problem: str | None) -> Gate:
    drop = found.metric_drop if found else None
    if drop is None:
        reason = problem or ("the metric is undefined on what it answered" if found else None)
        return unmeasured_gate(METRIC_GATE, subject, limit=limit, reason=reason)
    return decide_gate(METRIC_GATE, subject, drop.value, limit=limit, low=drop.low, high=drop.high)


def _slice_gate(subject: str, churn: Churn | None, limit: float, problem: str | None) -> Gate:
    """The worst slice's drop; without a slice that has enough texts the gate has no value and fails."""
    if churn is None or churn.worst_drop is None:
        reason = problem or f"no class and no length has {MIN_ROWS} validation texts"
        return unmeasured_gate(SLICE_GATE, subject, limit=limit, reason=reason)
    drop, low, high = churn.worst_drop
    return decide_gate(SLICE_GATE, subject, drop, limit=limit, low=low, high=high)
