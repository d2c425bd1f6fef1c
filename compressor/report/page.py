"""The report as one HTML page that needs nothing else: styles, drawings and plotly.js are in the file.

The page's policy forbids every request, and all texts are escaped: labels and examples come from users.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from plotly.offline import get_plotlyjs

from compressor.report import ladder, latency, sections
from compressor.report.augmentation import augmentation_views
from compressor.report.calibration import calibration_views, uncalibrated_tasks
from compressor.report.churn import churn_views
from compressor.report.classes import class_views
from compressor.report.curves import learning_curves
from compressor.report.environment import environment_table, trainings_table, versions_table
from compressor.report.flatness import flatness_view
from compressor.report.headline import headline
from compressor.report.overview import overview
from compressor.report.plots import Figure
from compressor.report.quantisation import quantisation_views
from compressor.report.table import comparison_table
from compressor.report.tiles import tiles
from compressor.report.tradeoff import accuracy_against_latency
from compressor.report.waterfall import waterfall_view

TEMPLATE = "report.html.j2"


def write_page(report: Mapping[str, Any], path: Path) -> None:
    """Write report.html.

    Args:
        report: the content of report.json; whatever a run did not measure may be null or absent.
        path: the page; an existing one is replaced.
    """
    write_html(render(report), path)


def write_html(html: str, path: Path) -> None:
    """Write a page whole or not at all."""
    aside = path.with_name(f"{path.name}.tmp")
    try:
        aside.write_text(html, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def render(report: Mapping[str, Any]) -> str:
    """The page's HTML."""
    return render_template(TEMPLATE, _content(report))


def render_template(name: str, content: Mapping[str, Any]) -> str:
    """A page of this folder's templates, with its styles, scripts and figures in it.

    Args:
        name: of a template that extends page.html.j2.
        content: what it shows; `name` and `created` stand in every page.
    """
    figures: list[Figure] = []

    def place(figure: Figure) -> int:
        """Remember a figure; its number tells report.js where it belongs."""
        figures.append(figure)
        return len(figures) - 1

    return _template(name).render(**content, **_assets(), figures=figures, place=place)


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("compressor", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template(name)


def _assets() -> dict[str, str]:
    folder = files("compressor.report")
    return {
        "css": folder.joinpath("report.css").read_text(encoding="utf-8"),
        "script": folder.joinpath("report.js").read_text(encoding="utf-8"),
        "plotly": get_plotlyjs(),
    }


def moment(created: str | None) -> str:
    """`2026-03-02 14:07 UTC+01:00`; as it is when it is no date."""
    try:
        return f"{datetime.fromisoformat(created or ''):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return created or ""


def _content(report: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the template shows, as text, tables and figures."""
    view = overview(report)
    return {
        "name": report.get("name") or "report",
        "created": moment(report.get("created")),
        "headline": headline(report),
        "tiles": tiles(report, view),
        "tradeoffs": [(task, figure) for task in view.tasks if (figure := accuracy_against_latency(view, task))],
        "point": view.point,
        "baseline": view.baseline,
        "comparison": comparison_table(report),
        "controls": sections.controls_table(report, view),
        "gates": sections.gates_table(report),
        "ladder": ladder.ladder_table(report),
        "ladder_problems": ladder.problems(report),
        "invariance": ladder.invariance_table(report),
        "metrics": sections.metrics_table(report),
        "calibration": calibration_views(report),
        "uncalibrated": uncalibrated_tasks(report),
        "churn": churn_views(report),
        "classes": class_views(report),
        "curves": learning_curves(report),
        "trainings": trainings_table(report),
        "warm_start": (report.get("warm_start") or {}).get("model"),
        "heads": sections.warm_start(report),
        "flatness": flatness_view(report),
        "data": sections.data_table(report),
        "notices": sections.notices(report),
        "augmentation": augmentation_views(report),
        "latency": latency.latency_table(report),
        "latency_parts": latency.parts_table(report),
        "latency_over": latency.baseline_name(report),
        "latency_nodes": latency.nodes_in_words(report),
        "timing_notes": latency.timing_notes(report),
        "quantisation": quantisation_views(report),
        "waterfall": waterfall_view(report, view),
        "examples": sections.examples_table(report),
        "recipe": sections.recipe_yaml(report),
        "stages": sections.stages_table(report),
        "environment": environment_table(report),
        "versions": versions_table(report),
    }
