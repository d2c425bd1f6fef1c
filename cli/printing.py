"""What commands print on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_NARROWEST = 100


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


def print_measurements(rows: Sequence[Mapping[str, Any]]) -> None:
    """The benchmark's rows as a table."""
    columns = (
        "variant",
        "runtime",
        "device",
        "precision",
        "threads",
        "batch_size",
        "p50_ms",
        "p95_ms",
        "texts_per_second",
    )
    table = _table(columns)
    for row in rows:
        table.add_row(*(_shown(row[column]) for column in columns))
    _console().print(table)


def print_summary(report: Mapping[str, Any], folder: Path) -> None:
    """The headline, the table of all variants, the gates, and where the report lies."""
    from compressor.report.headline import headline
    from compressor.report.table import comparison_table

    console = _console()
    compared = comparison_table(report)
    table = _table(compared.columns, text_columns=compared.text_columns)
    for index, row in enumerate(compared.rows):
        table.add_row(*row, style={"default": "bold", "control": "dim"}.get(compared.mark(index), ""))
    console.print()
    console.print(table)
    console.print()
    console.print(headline(report), markup=False)
    for gate in report["gates"]:
        console.print(
            f"gate {gate['verdict']}: {gate['name']} of {gate['artifact']} on {gate['task']} "
            f"({gate['measured']:.3g}, limit {gate['limit']:.3g})",
            markup=False,
        )
    console.print(f"report: {folder / 'report.html'}", markup=False)
    console.print(f"serve it: compressor serve {folder / 'bundle'}", markup=False)


def print_comparison(result: Mapping[str, Any], folder: Path) -> None:
    """The methods of every task, the main comparison in a sentence, and where the page lies."""
    from compressor.comparison.results import PAGE_FILE
    from compressor.comparison.wording import arms_table, headline

    console = _console()
    for task in result["tasks"]:
        console.print()
        if len(result["tasks"]) > 1:
            console.print(task, style="bold", markup=False)
        compared = arms_table(result, task)
        table = _table(compared.columns, text_columns=compared.text_columns)
        for index, row in enumerate(compared.rows):
            cells = (escape(cell) for cell in row)
            table.add_row(*cells, style={"default": "bold", "control": "dim"}.get(compared.mark(index), ""))
        console.print(table)
    console.print()
    console.print(headline(result), markup=False)
    console.print(f"page: {folder / PAGE_FILE}", markup=False)


def _table(columns: Sequence[str], text_columns: int = 1) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column.replace("_", " "), justify="left" if index < text_columns else "right")
    return table


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _NARROWEST + 60
    return console
