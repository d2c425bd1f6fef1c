"""What commands print on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from compressor.report.table import Table as ReportTable

_UNFOLDED = 10_000
"""Columns of an output that is no terminal: no table is so wide, so none is folded there."""


def print_json(value: object) -> None:
    """Indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_answers(texts: Sequence[str], answers: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
    """One line per text: the answer of every task and the text."""
    for text, row in zip(texts, answers, strict=True):
        shown = ", ".join(_answer(task, answer, alone=len(row) == 1) for task, answer in row.items())
        typer.echo(f"{shown}\t{text}")


def _answer(task: str, answer: Mapping[str, Any], *, alone: bool) -> str:
    if "value" in answer:
        found = f"{answer['value']:.3f}"
    elif "labels" in answer:
        found = "|".join(answer["labels"]) or "(none)"
    else:
        found = f"{answer['label']} {answer['score']:.2f}"
    return found if alone else f"{task}: {found}"


def print_latency(found: Mapping[str, Any]) -> None:
    """The benchmark's rows, the waterfall where there is one, and what spoke against the measurements."""
    from compressor.report.latency import latency_table, parts_table
    from compressor.report.waterfall import steps_table

    console = make_console()
    waterfall = found.get("waterfall") or {}
    for content in (latency_table(found), parts_table(found), steps_table(waterfall)):
        if content is not None:
            print_table(content, console)
            console.print()
    for note in (*found["timing"]["notes"], *waterfall.get("notes", ())):
        console.print(note, markup=False)


def print_summary(report: Mapping[str, Any], folder: Path) -> None:
    """The headline, the table of all variants, the gates, and where the report lies."""
    from compressor.report.headline import headline
    from compressor.report.table import comparison_table

    console = make_console()
    compared = comparison_table(report)
    console.print()
    print_table(compared, console)
    console.print()
    console.print(headline(report), markup=False)
    for note in (report.get("timing") or {}).get("notes") or []:
        console.print(f"timing: {note}", markup=False)
    for gate in report["gates"]:
        console.print(
            f"gate {gate['verdict']}: {gate['name']} of {gate['artifact']} on {gate['task']} "
            f"({_gate_value(gate)}, limit {gate['limit']:.3g})",
            markup=False,
        )
    console.print(f"report: {folder / 'report.html'}", markup=False)
    if any(artifact["is_default"] for artifact in report["artifacts"]):
        console.print(f"serve it: compressor serve {folder / 'bundle'}", markup=False)
    else:
        console.print("no artifact passed its gates: the bundle is served only where one is named", markup=False)


def _gate_value(gate: Mapping[str, Any]) -> str:
    return f"no value: {gate['reason']}" if gate["measured"] is None else f"{gate['measured']:.3g}"


def print_comparison(result: Mapping[str, Any], folder: Path) -> None:
    """The methods of every task, the main comparison in a sentence, and where the page lies."""
    from compressor.comparison.results import PAGE_FILE
    from compressor.comparison.wording import arms_table, headline

    console = make_console()
    for task in result["tasks"]:
        console.print()
        if len(result["tasks"]) > 1:
            console.print(task, style="bold", markup=False)
        compared = arms_table(result, task)
        print_table(compared, console)
    console.print()
    console.print(headline(result), markup=False)
    console.print(f"page: {folder / PAGE_FILE}", markup=False)


def print_table(shown: ReportTable, console: Console) -> None:
    """A table of the report's on a terminal."""
    table = _table(shown.columns, text_columns=shown.text_columns)
    for index, row in enumerate(shown.rows):
        cells = (escape(cell) for cell in row)
        table.add_row(*cells, style={"default": "bold", "control": "dim"}.get(shown.mark(index), ""))
    console.print(table)


def _table(columns: Sequence[str], text_columns: int = 1) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column.replace("_", " "), justify="left" if index < text_columns else "right")
    return table


def make_console() -> Console:
    """Where tables go: as wide as the terminal, or without a fold where there is none."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _UNFOLDED
    return console
