"""Where a difference enters on the way from torch to the served graph, and what company costs an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compressor.report.table import Table
from compressor.report.wording import MISSING, compact, figure, interval, is_known, megabytes, plain_metric, times

Report = Mapping[str, Any]
NOT_EXPORTED = "not exported"
NAMES = {
    "tokens": "tokens: the bundle's tokenizer against the student's",
    "plain": "plain: the graph as torch exports it, simplified",
    "fp32": "fp32: attention fused",
    "int8": "int8: weights fixed, activations scaled at run time",
    "int8_static": "int8_static: weights and activations fixed",
    "int8_weights": "int8_weights: weights only, activations per row",
    "fp16": "fp16: half precision",
}


@dataclass(frozen=True)
class Choice:
    """One way of serving.

    Attributes:
        name: in words.
        precision: of the artifact.
        is_alone: whether every text has a call of its own.
    """

    name: str
    precision: str
    is_alone: bool = False


CHOICES = (
    Choice("fp32", "fp32"),
    Choice("int8 (dynamic), several texts per call", "int8"),
    Choice("int8 (dynamic), one text per call and lane", "int8", is_alone=True),
    Choice("int8_static", "int8_static"),
    Choice("int8_weights (accuracy level 4)", "int8_weights"),
)


def ladder_table(report: Report) -> Table | None:
    """Every rung and task: against the rung that it was made from, and against torch."""
    rows, marks = [], []
    for rung in report.get("ladder") or []:
        for row in _rows(rung, list(report.get("tasks") or {})):
            rows.append(row)
            marks.append("" if rung.get("passed") else "failed")
    columns = (
        "rung", "task", "verdict", "made from", "logits, largest", "logits, mean", "same answers", "metric lost",
        "logits against torch",
    )  # fmt: skip
    return Table(columns, tuple(rows), text_columns=4, marks=tuple(marks)) if rows else None


def problems(report: Report) -> list[str]:
    """A sentence per rung that could not be measured."""
    return [f"{rung['rung']}: {rung['problem']}." for rung in report.get("ladder") or [] if rung.get("problem")]


def _rows(rung: Mapping[str, Any], tasks: list[str]) -> Iterator[tuple[str, ...]]:
    verdict = "✓ passed" if rung.get("passed") else "✗ not passed"
    made_from = rung.get("made_from") or MISSING
    for task in tasks:
        comparisons = rung.get("comparisons") or {}
        above = (comparisons.get(made_from) or {}).get(task) or {}
        torch = (comparisons.get("torch") or {}).get(task) or {}
        yield (
            NAMES.get(rung["rung"], rung["rung"]),
            task,
            verdict,
            MISSING if rung["rung"] == "tokens" else made_from,
            compact(above.get("max_difference")),
            compact(above.get("mean_difference")),
            f"{above['agreement']:.1%}" if is_known(above.get("agreement")) else MISSING,
            _drop(above.get("metric_drop")),
            compact(torch.get("max_difference")),
        )


def _drop(drop: Mapping[str, Any] | None) -> str:
    if not drop:
        return MISSING
    low, high = drop.get("low"), drop.get("high")
    ends = f" {interval(low, high)}" if low != high else ""
    return f"{plain_metric(drop['metric'])} {figure(drop.get('value'))}{ends}"


def invariance_table(report: Report) -> Table | None:
    """The ways to serve, what company changes in each, and what it costs against dynamic int8."""
    artifacts = {artifact["precision"]: artifact for artifact in report.get("artifacts") or []}
    if not any(artifact.get("invariance") for artifact in artifacts.values()):
        return None
    rows = tuple(_choice(choice, artifacts.get(choice.precision), report) for choice in CHOICES)
    columns = (
        "choice", "changed by company: logits", "changed by company: answers", "size", "time, one text",
        "time, eight texts",
    )  # fmt: skip
    return Table(columns, rows)


def _choice(choice: Choice, artifact: Mapping[str, Any] | None, report: Report) -> tuple[str, ...]:
    if artifact is None:
        return (choice.name, NOT_EXPORTED, *[MISSING] * 4)
    found = list((artifact.get("invariance") or {}).values())
    changed, texts = (sum(one.get(name) or 0 for one in found) for name in ("answers_changed", "texts"))
    difference = max((value for one in found if is_known(value := one.get("max_difference"))), default=None)
    if choice.is_alone:
        difference, changed = 0.0, 0
    return (
        choice.name,
        compact(difference) if found else MISSING,
        f"{changed} of {texts}" if found else MISSING,
        megabytes(artifact.get("bytes")),
        *(times(_price(choice, batch_size, report)) for batch_size in (1, 8)),
    )


def _price(choice: Choice, num_texts: int, report: Report) -> float | None:
    """Time for so many texts over dynamic int8's in one call, on one CPU thread; None where one was not timed."""
    baseline = _milliseconds("int8", num_texts, report)
    if choice.is_alone:
        alone = _milliseconds(choice.precision, 1, report)
        own = None if alone is None else num_texts * alone
    else:
        own = _milliseconds(choice.precision, num_texts, report)
    return own / baseline if own and baseline else None


def _milliseconds(precision: str, batch_size: int, report: Report) -> float | None:
    wanted = {"variant": "bundle", "device": "cpu", "threads": 1, "precision": precision, "batch_size": batch_size}
    for row in report.get("measurements") or []:
        if all(row.get(name) == value for name, value in wanted.items()) and is_known(row.get("p50_ms")):
            return float(row["p50_ms"])
    return None
