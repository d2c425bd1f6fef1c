"""The answer in one sentence: how much smaller, how much quicker, at what loss, and may it be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report.overview import Overview, Score, Variant, overview
from compressor.report.table import score_text
from compressor.report.wording import (
    SIZE,
    SPEED,
    listed,
    megabytes,
    milliseconds,
    number_of,
    plain_metric,
    ratio_in_words,
)

# What every artifact is made from: their gates are its gates too.
_ORIGINS = ("student", "tokens", "plain", "fp32")
_ALL_PASSED = {1: "its one gate passed", 2: "both of its gates passed"}


def headline(report: Mapping[str, Any]) -> str:
    """The report in one sentence, with the baseline and the intervals that its numbers need."""
    view = overview(report)
    said = [part for part in (_size(view), _speed(view), _loss(view)) if part]
    return f"The {_called(view.answer)} {listed(said) or 'was not measured'}; {trust(report, view)}."


def trust(report: Mapping[str, Any], view: Overview) -> str:
    """What the gates say of the recommended variant, and which other artifact did not pass."""
    gates: Sequence[Mapping[str, Any]] = report.get("gates") or []
    own = gates_of(report, view.answer)
    if not own:
        return "no gate was checked"
    failed = [gate for gate in own if gate["verdict"] == "failed"]
    undecided = [gate for gate in own if gate["verdict"] == "inconclusive"]
    parts = [
        *([f"do not rely on it: {_count(failed, len(own), 'failed')}"] if failed else []),
        *([_count(undecided, len(own), "could not be decided with so few texts")] if undecided else []),
    ]
    if not parts:
        parts = [_ALL_PASSED.get(len(own), f"all {len(own)} of its gates passed")]
    others = sorted({g["artifact"] for g in gates if not _concerns(g, view.answer) and g["verdict"] != "passed"})
    if others:
        parts.append(f"{listed(others)} did not pass and is not what is meant here")
    return "; ".join(parts)


def gates_of(report: Mapping[str, Any], variant: Variant) -> list[Mapping[str, Any]]:
    """The gates of one variant and those of the whole run."""
    return [gate for gate in report.get("gates") or [] if _concerns(gate, variant)]


def baseline_in_words(baseline: Variant) -> str:
    """What a speed-up is measured against; several teachers answer one after the other."""
    if baseline.kind != "teacher":
        return "the same student in torch"
    if baseline.members > 1:
        return f"the {baseline.name} with one of its {baseline.members} members, unpadded, in torch"
    is_one = baseline.name == "teacher"
    return "the unpadded torch teacher" if is_one else f"the {baseline.name} in turn, unpadded, in torch"


def _called(variant: Variant) -> str:
    return f"{variant.precision} student" if variant.precision else "student"


def _concerns(gate: Mapping[str, Any], variant: Variant) -> bool:
    return not gate.get("artifact") or gate["artifact"] in (variant.precision, *_ORIGINS)


def _count(gates: Sequence[Mapping[str, Any]], total: int, verdict: str) -> str:
    names = sorted({f"{gate['name']} on {gate['task']}" if gate.get("task") else gate["name"] for gate in gates})
    return f"{len(gates)} of its {number_of(total, 'gate')} {verdict} ({listed(names)})"


def _size(view: Overview) -> str:
    size, teacher = view.answer.num_bytes, view.teacher
    if not size:
        return ""
    if teacher is None or not teacher.num_bytes:
        return f"takes {megabytes(size)}"
    words = ratio_in_words(teacher.num_bytes / size, SIZE)
    return f"is {words} its {teacher.name} ({megabytes(size)} instead of {megabytes(teacher.num_bytes)})"


def _speed(view: Overview) -> str:
    ratio, baseline = view.speed_up(view.answer), view.baseline
    if not view.answer.p50_ms:
        return ""
    own = f"{milliseconds(view.answer.p50_ms)} ms"
    if ratio is None or baseline is None or baseline is view.answer:
        return f"answers in {own} ({view.point})"
    words = ratio_in_words(ratio, SPEED)
    instead = f"{own} instead of {milliseconds(baseline.p50_ms)} ms; {view.point}"
    return f"answers {words} {baseline_in_words(baseline)} ({instead})"


def _loss(view: Overview) -> str:
    teacher = view.teacher.scores if view.teacher else {}
    parts = [
        _score_in_words(task if len(view.tasks) > 1 else "", score, teacher.get(task))
        for task, score in view.answer.scores.items()
    ]
    return f"reaches {listed(parts)} on the test texts" if parts else ""


def _score_in_words(task: str, score: Score, teacher: Score | None) -> str:
    own = " ".join(part for part in (task, plain_metric(score.metric), score_text(score)) if part)
    if teacher is None:
        return own
    return f"{own} (teacher {score_text(teacher)})" if task else f"{own} against the teacher's {score_text(teacher)}"
