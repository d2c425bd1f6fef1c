"""What the scripts around `compressor compare` share: run it, keep its JSON, and put its tables on the results page."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cells import HERE, put_block
from compressor.comparison.results import RESULT_FILE
from compressor.comparison.wording import arms_table, headline
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import announce
from compressor.recipe_file import load_recipe
from compressor.report.table import Table
from compressor.report.wording import number_of


@dataclass(frozen=True)
class Kept:
    """Where results go.

    Attributes:
        results: folder of `<name>.json`.
        docs: page that gets the block `<name>`; None: no page does.
    """

    results: Path
    docs: Path | None


def recipe_path(name: str) -> Path:
    """The recipe of a comparison."""
    return HERE / "recipes" / f"{name}.yaml"


def compare_and_keep(
    name: str,
    options: Sequence[str],
    output: Path,
    kept: Kept,
    *,
    called: str | None = None,
    further: Callable[[Path, Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> bool:
    """Run one comparison; its JSON and its table are kept if it finished.

    Args:
        name: of the recipe.
        options: of `compressor compare`, without the recipe and the output.
        output: folder of the comparison.
        kept: where the results go.
        called: name of what is kept; default: the recipe's.
        further: what else is kept, from the comparison's folder and its result.

    Returns:
        Whether it finished.
    """
    program = str(Path(sys.executable).with_name("compressor"))
    command = [program, "compare", str(recipe_path(name)), *options, "--output", str(output)]
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        announce(f"{name}: `compressor compare` ended with exit code {done.returncode}")
        return False
    result = _without_place(read_json(output / RESULT_FILE), output.parent.resolve())
    for task, place in zip(result["recipe"]["tasks"].values(), _places(name), strict=True):
        task["data"] = place
    result |= {} if further is None else further(output, result)
    title = called or name
    write_json(kept.results / f"{title}.json", result)
    if kept.docs is not None:
        put_block(kept.docs, title.replace("_", "-"), markdown(result, title))
    return True


def _without_place(result: dict[str, Any], work: Path) -> dict[str, Any]:
    """The result with the folder of this machine, under which everything lies, called `work`."""
    found: dict[str, Any] = json.loads(json.dumps(result).replace(str(work), "work"))
    return found


def _places(name: str) -> list[str]:
    """What the recipe's data fields say in the kept result: no folder of this machine."""
    return [task.data for task in load_recipe(recipe_path(name)).tasks.values()]


def markdown(result: Mapping[str, Any], name: str) -> str:
    """The comparison's tables, one per task, and its main sentence."""
    host = result["environment"]
    lines = []
    for task, facts in result["tasks"].items():
        rows = facts["rows"]
        lines += [*_table(arms_table(result, task)), ""]
        lines += [
            f"{name}, {task}: {len(result['seeds'])} seeds, {rows['train']} labelled rows, {rows['test']} test rows.",
            "",
        ]
    where = f"{host['cpu_model']}, {number_of(host['available_cpus'], 'CPU')}"
    return "\n".join([*lines, f"{headline(result)} Measured on {where}."])


def _table(table: Table) -> list[str]:
    """A table of text as markdown."""
    rules = ["---" if place < table.text_columns else "--:" for place in range(len(table.columns))]
    return [f"| {' | '.join(row)} |" for row in (table.columns, rules, *table.rows)]
