"""docs/operations.md says of settings and metrics what the program says of itself."""

from __future__ import annotations

import re
from pathlib import Path

from serving.engine.dummy import DummyEngine
from serving.http.metrics import Metrics
from serving.operations.settings import describe_settings

PAGE = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_the_programs_own() -> None:
    """An operator sets what the table names, and believes the default that it shows."""
    shown = re.search(r"\| setting \| default \| meaning \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", PAGE)
    assert shown is not None
    rows = [
        f"| `{row.name}` | {'' if row.default == 'null' else f'`{row.default}` '}| {row.meaning} |"
        for row in describe_settings()
    ]
    assert shown[1].splitlines() == rows


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    """An alert on a metric that was renamed never fires."""
    given = re.findall(r"^# HELP (compressor_\w+) (.*)$", Metrics(DummyEngine()).render().decode(), re.MULTILINE)
    described = {f"| `{name}` | {meaning} |" for name, meaning in given if not name.endswith("_created")}
    assert described <= set(PAGE.splitlines())
    names = {name for name, _ in given}
    for used in re.findall(r"\bcompressor_\w+", PAGE):
        assert used.removesuffix("_bucket") in names, used
