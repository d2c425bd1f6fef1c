"""The parity ladder: tokens, the plain graph, the fused one, every other precision.

A rung is compared with torch, which says whether it may be trusted, and with the rung that it was made from, which
says where a difference enters. A rung passes when all its gates were asked and passed, and all rungs above it did:
what cannot run, gives no numbers or was not measured fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from export.gates import Limits, decide_gate, has_passed
from export.parity.bench import Answers, Bench
from export.parity.climbed import Climbed
from export.parity.comparison import compare_answers
from export.parity.rungs import FP32, PLAIN, TOKENS, TORCH, Rung
from export.parity.tokens import Tokenise, count_other_tokens
from export.parity.verdicts import gates_of, required_gates

TOKENS_GATE = "export_tokens"


def judge_tokens(bench: Bench, tokenise: Tokenise) -> Rung:
    """The first rung: the bundle's tokenizer against the student's own, on all labelled texts."""
    numbers = {task: count_other_tokens(tokenise, bench.encoder, bench.samples[task].texts) for task in bench.tasks}
    gates = tuple(decide_gate(TOKENS_GATE, f"{TOKENS} {task}", number, limit=0.0) for task, number in numbers.items())
    return Rung(name=TOKENS, gates=gates, passed=has_passed(gates))


def judge(bench: Bench, climbed: Sequence[Climbed], limits: Limits, above: Sequence[Rung] = ()) -> tuple[Rung, ...]:
    """Every graph against torch and against the one it was made from, with its gates.

    Args:
        bench: the questions and torch's answers.
        climbed: the graphs from the top: plain, fp32 if there is one, the others.
        limits: of the gates.
        above: rungs that all graphs stand on.

    Returns:
        One per graph, in their order.
    """
    known = {TORCH: bench.torch} | {one.name: one.answers for one in climbed if one.answers}
    is_sound = all(rung.passed for rung in above)
    rungs: list[Rung] = []
    for one in climbed:
        rung = _judge_one(bench, one, known, limits)
        rung = msgspec.structs.replace(rung, passed=rung.passed and is_sound)
        if one.name in (PLAIN, FP32):  # all others stand on these
            is_sound = rung.passed
        rungs.append(rung)
    return tuple(rungs)


def _judge_one(bench: Bench, climbed: Climbed, known: Mapping[str, Answers], limits: Limits) -> Rung:
    comparisons = {
        other: {task: compare_answers(bench, known[other], climbed.answers, task) for task in bench.tasks}
        for other in dict.fromkeys((TORCH, climbed.made_from))
        if climbed.answers and other in known
    }
    to_torch = comparisons.get(TORCH, {})
    gates = tuple(gate for task in bench.tasks for gate in gates_of(climbed, to_torch, task, limits))
    required = {
        (name, f"{climbed.name} {task}") for task in bench.tasks for name in required_gates(climbed.name, limits)
    }
    return Rung(
        name=climbed.name,
        sha256=climbed.sha256,
        made_from=climbed.made_from,
        problem=climbed.problem,
        comparisons=comparisons,
        invariance=climbed.invariance,
        gates=gates,
        passed=has_passed(gates, allow_inconclusive=limits.allow_inconclusive, required=required),
    )
