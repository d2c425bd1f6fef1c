"""The answer at a glance: size, speed, one figure per task and the gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressor.report.headline import baseline_in_words, gates_of
from compressor.report.overview import Overview
from compressor.report.table import score_text, score_title
from compressor.report.waterfall import throughput_in_words
from compressor.report.wording import (
    MISSING,
    SIZE,
    SPEED,
    figure,
    interval,
    megabytes,
    milliseconds,
    ratio_in_words,
)


@dataclass(frozen=True)
class Tile:
    """One figure of the answer.

    Attributes:
        title: what it is.
        value: large.
        notes: what gives it meaning, a line each.
        mark: `passed`, `failed`, `inconclusive` or empty.
    """

    title: str
    value: str
    notes: tuple[str, ...] = ()
    mark: str = ""


def tiles(report: Mapping[str, Any], view: Overview) -> list[Tile]:
    """What the headline says, to be read in a second."""
    return [
        _size(view),
        _speed(view, throughput_in_words(report)),
        *(_score(view, task) for task in view.tasks),
        _gates(report, view),
    ]


def _size(view: Overview) -> Tile:
    size, teacher = view.answer.num_bytes, view.teacher
    if not size or teacher is None or not teacher.num_bytes:
        return Tile("size", megabytes(size))
    words = ratio_in_words(teacher.num_bytes / size, SIZE)
    return Tile("size", megabytes(size), (f"{words} the {teacher.name}, {megabytes(teacher.num_bytes)}",))


def _speed(view: Overview, throughput: str) -> Tile:
    p50, ratio, baseline = view.answer.p50_ms, view.speed_up(view.answer), view.baseline
    if not p50:
        return Tile("time per call", MISSING, ("not measured",))
    notes = [str(view.point)]
    if ratio is not None and baseline is not None and baseline is not view.answer:
        words = ratio_in_words(ratio, SPEED)
        notes.insert(0, f"{words} {baseline_in_words(baseline)}, {milliseconds(baseline.p50_ms)} ms")
    return Tile("time per call", f"{milliseconds(p50)} ms", (*notes, *([throughput] if throughput else ())))


def _score(view: Overview, task: str) -> Tile:
    score = view.answer.scores.get(task)
    if score is None:
        return Tile(task, MISSING, ("not measured on the test split",))
    title = score_title(task, score.metric, is_only=len(view.tasks) == 1)
    before = view.teacher.scores.get(task) if view.teacher else None
    ends = interval(score.low, score.high)
    notes = [f"95% interval {ends}" if ends else "", f"teacher {score_text(before)}" if before else ""]
    return Tile(title, figure(score.value), tuple(note for note in notes if note))


def _gates(report: Mapping[str, Any], view: Overview) -> Tile:
    verdicts = [gate["verdict"] for gate in gates_of(report, view.answer)]
    if not verdicts:
        return Tile("gates", "none", ("nothing was checked",))
    passed = verdicts.count("passed")
    mark = next((v for v in ("failed", "inconclusive") if v in verdicts), "passed")
    notes = tuple(f"{verdicts.count(v)} {v}" for v in ("failed", "inconclusive") if v in verdicts)
    return Tile(
        "gates passed",
        f"{passed} of {len(verdicts)}",
        notes or ("the exported model says what it should",),
        mark,
    )
