"""Tables as text: the comparison that page and terminal share, and what the page adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressor.report.overview import Overview, Score, Variant, overview
from compressor.report.wording import (
    MISSING,
    figure,
    interval,
    megabytes,
    millions,
    milliseconds,
    plain_metric,
    times,
)


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        columns: headings.
        rows: cells, as many per row as there are columns.
        text_columns: how many of the leading columns are words; the others are numbers, aligned right.
        marks: one word per row for its look, e.g. `default`, `failed`; empty for none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    marks: tuple[str, ...] = ()

    def mark(self, row: int) -> str:
        """The look of a row."""
        return self.marks[row] if self.marks else ""


def comparison_table(report: Mapping[str, Any]) -> Table:
    """Every variant with its size, its figures and its speed: the table of the page and of the terminal."""
    view = overview(report)
    metrics = {task: score.metric for variant in view.variants for task, score in variant.scores.items()}
    return Table(
        columns=(
            "variant",
            "what it is",
            "size",
            "parameters",
            *(score_title(task, metrics.get(task, ""), is_only=len(view.tasks) == 1) for task in view.tasks),
            "p50, ms",
            "speed-up",
        ),
        rows=tuple(_cells(view, variant) for variant in view.variants),
        text_columns=2,
        marks=tuple("default" if v.is_default else v.kind if v.kind == "control" else "" for v in view.variants),
    )


def score_title(task: str, metric: str, *, is_only: bool) -> str:
    """How a task's column is called: by its metric, with the task where there are several."""
    return plain_metric(metric) or task if is_only else f"{task}: {plain_metric(metric)}".removesuffix(": ")


def score_text(score: Score | None) -> str:
    """A figure with its 95% interval."""
    return f"{figure(score.value)} {interval(score.low, score.high)}".strip() if score else MISSING


def _cells(view: Overview, variant: Variant) -> tuple[str, ...]:
    return (
        variant.name,
        variant.what,
        megabytes(variant.num_bytes),
        millions(variant.parameters),
        *(score_text(variant.scores.get(task)) for task in view.tasks),
        milliseconds(variant.p50_ms),
        "baseline" if variant is view.baseline else times(view.speed_up(variant)),
    )
