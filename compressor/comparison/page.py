"""comparison.html: the comparison as one page that needs nothing else, in the report's frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.comparison import drawings, wording
from compressor.comparison.results import GAIN, LOSS
from compressor.report.environment import environment_table, versions_table
from compressor.report.page import moment, render_template, write_html
from compressor.report.sections import recipe_yaml
from compressor.report.tiles import Tile
from compressor.report.wording import MISSING, figure, plain_metric

TEMPLATE = "comparison.html.j2"
_MARKS = {GAIN: "passed", LOSS: "failed"}


def write_comparison_page(result: Mapping[str, Any], path: Path) -> None:
    """Write comparison.html.

    Args:
        result: the content of comparison.json.
        path: the page; an existing one is replaced.
    """
    write_html(render_template(TEMPLATE, _content(result)), path)


def _content(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": result["name"],
        "created": moment(result["created"]),
        "headline": wording.headline(result),
        "tiles": _tiles(result),
        "views": [_view(result, task) for task in result["tasks"]],
        "protocol": wording.protocol(result),
        "is_one_seed": len(result["seeds"]) == 1,
        "comparisons": wording.comparisons_table(result),
        "cost": wording.cost_table(result),
        "added": wording.added_table(result),
        "teachers": wording.teachers_table(result),
        "failed": result["failed"],
        "recipe": recipe_yaml(result),
        "environment": environment_table(result),
        "versions": versions_table(result),
    }


def _view(result: Mapping[str, Any], task: str) -> dict[str, Any]:
    baselines = [arm["label"] for arm in result["arms"] if arm["is_control"]]
    differences = [drawings.differences_drawing(result, task, baseline) for baseline in baselines]
    return {
        "task": task,
        "rows": result["tasks"][task]["rows"].get("test"),
        "seeds": drawings.seeds_drawing(result, task),
        "differences": [drawn for drawn in differences if drawn],
        "table": wording.arms_table(result, task),
        "per_seed": wording.seeds_table(result, task),
    }


def _tiles(result: Mapping[str, Any]) -> list[Tile]:
    found = wording.main_of(result)
    if "difference" not in found:
        return [Tile("main comparison", MISSING, ("no seed of both is finished",))]
    metric = plain_metric(result["tasks"][found["task"]]["metric"])
    pair = f"{found['method']} minus {found['baseline']}"
    means = {arm["label"]: arm["tasks"][found["task"]]["mean"] for arm in result["arms"] if arm["tasks"]}
    return [
        Tile(
            f"{metric}: {pair}",
            f"{found['difference']:+.3f}",
            (f"95% interval [{found['low']:+.3f}, {found['high']:+.3f}]", wording.verdict_text(found)),
            _MARKS.get(found["verdict"], "inconclusive"),
        ),
        Tile(
            f"{metric}, mean over seeds",
            figure(means[found["method"]]),
            (f"{found['baseline']} {figure(means[found['baseline']])}",),
        ),
        Tile(
            "could have seen",
            figure(found["smallest_visible"]),
            ("a true difference of this size is found four times in five",)
            if found["smallest_visible"]
            else ("nothing: one seed allows no claim",),
        ),
        Tile(
            "seeds", str(found["seeds"]), (f"{len(result['arms'])} methods, {_rows(result, found['task'])} test texts",)
        ),
    ]


def _rows(result: Mapping[str, Any], task: str) -> str:
    return f"{result['tasks'][task]['rows'].get('test', 0):,}"
