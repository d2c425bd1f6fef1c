"""The page's HTML: safe with any text, whole with any gap."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compressor.report import page
from compressor.report.page import render, write_page

EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(1)> & "quoted"'


@pytest.fixture(autouse=True)
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes of plotly.js say nothing about our own HTML; the browser test has them."""
    monkeypatch.setattr(page, "get_plotlyjs", lambda: "")


def test_texts_of_users_cannot_become_markup(report: dict[str, Any]) -> None:
    """A label or an example with markup would run as a script in the report of whoever opens it."""
    changed = json.loads(json.dumps(report).replace("complaint", json.dumps(EVIL)[1:-1]))
    changed["examples"][0]["text"] = [EVIL]
    changed["tasks"]["intent"]["notices"] = [EVIL]
    changed["name"] = EVIL
    html = render(changed)
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert "<img" not in html


def test_figures_survive_as_json_whatever_a_label_holds(report: dict[str, Any]) -> None:
    """`</script>` inside the embedded JSON would end it, and nothing would be drawn."""
    report["student"]["tasks"]["intent"]["per_class"][0]["label"] = "</script>"
    embedded = re.search(r'id="figures">(.*?)</script>', render(report), re.DOTALL)
    assert embedded is not None
    figures = json.loads(embedded.group(1))
    assert any("&lt;/script&gt;" in tick for tick in figures[1]["layout"]["yaxis"]["ticktext"])


def test_the_page_names_no_address(report: dict[str, Any]) -> None:
    """A font or script from elsewhere would leave an offline reader with half a page."""
    html = render(report)
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert "default-src 'none'" in html


def test_one_seed_is_said_to_allow_no_claim(report: dict[str, Any]) -> None:
    """The student stands above its control here; the page must not let that pass for a result."""
    text = " ".join(render(report).split())
    assert "one seed allows no claim of a gain" in text
    assert len(re.findall(r"\bgain", text)) == 1


@pytest.mark.parametrize("missing", ["absent", "null", "nan"])
def test_any_gap_in_a_report_leaves_a_page(several_tasks: dict[str, Any], missing: str) -> None:
    """A run without a GPU, a teacher or a benchmark still owes its user a page."""
    found = [(node, key) for node, key in gaps(several_tasks) if missing != "nan" or isinstance(node[key], float)]
    assert len(found) > 50
    for node, key in found:
        kept = node[key]
        if missing == "absent":
            del node[key]
        else:
            node[key] = None if missing == "null" else math.nan
        assert "<h1>" in render(several_tasks), key
        node[key] = kept


def test_predictions_that_do_not_cover_test_leave_a_page(report: dict[str, Any]) -> None:
    """Stored predictions have no model, no training and sometimes no figure."""
    report["teacher"] = {
        "kind": "predictions",
        "model": "teacher.csv",
        "tasks": {"intent": None},
        "training": {},
    }
    report["measurements"] = report["measurements"][1:4]
    html = render(report)
    assert "stored predictions, no model" in html
    assert "No teacher model was timed" in html


def test_an_empty_report_leaves_a_page() -> None:
    """The least that can be known."""
    assert "was not measured" in render({})


def test_a_failed_write_keeps_the_old_page(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not cost the page of the last run, nor leave litter beside it."""
    target = tmp_path / "report.html"
    write_page(report, target)
    before = target.read_text()

    def broken(self: Path, target: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="no space"):
        write_page({**copy.deepcopy(report), "name": "other"}, target)
    assert target.read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


NULLABLE = {
    "teacher", "controls", "measurements", "gates", "examples", "stages", "environment", "recipe", "created",
    "model", "layers", "parameters", "bytes", "training", "per_class", "confusion", "metrics", "parity",
    "curve", "quantised_nodes", "batch_difference", "p50_ms", "p95_ms", "p99_ms", "samples", "limit",
    "texts_per_second", "measured", "low", "high", "value", "seconds", "steps", "planned_steps", "kept",
    "dtype", "notices", "dropped", "rows", "labels", "text_columns", "versions", "max_difference",
    "mean_difference", "agreement", "texts", "load_average", "cpu_quota", "ladder", "problem", "comparisons",
    "invariance", "metric_drop", "answers_changed",
}  # fmt: skip
WHOLE = {"curve", "per_class", "confusion", "recipe", "answers"}


def gaps(node: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every place of a report that may be empty: the mapping that holds it and its key."""
    if isinstance(node, list):
        for item in node:
            yield from gaps(item)
    if isinstance(node, dict):
        for key, value in node.items():
            if key in NULLABLE:
                yield node, key
            if key not in WHOLE:
                yield from gaps(value)
