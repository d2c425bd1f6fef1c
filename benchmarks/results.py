"""The figures of docs/results.md: `compressor run` on six data sets, one recipe each in `benchmarks/recipes/`.

Runs unattended. A data set that is done has a small file in `benchmarks/results/` and is not run again; one
that was interrupted continues from its finished stages and its last checkpoint. The table in the docs is
rewritten after every data set, so it is right at any moment.

    python -m benchmarks.results --data FOLDER --work runs/results

FOLDER holds a folder of splits per data set, named like the recipe; supportdesk is built in.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.pipeline.run import LOG_FILE, REPORT_FILE
from compressor.pipeline.stages import hash_json, read_json, write_json
from compressor.progress import announce
from compressor.recipe import Recipe
from compressor.recipe_file import load_recipe
from compressor.report.overview import Overview, Score, Variant, overview
from compressor.report.wording import duration, figure, interval, megabytes, milliseconds, plain_metric, times

HERE = Path(__file__).parent
NAMES = ("supportdesk", "sst2", "banking77", "trec6", "mrpc", "sts")
BUILT_IN = "supportdesk"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
GATES_FAILED = 3
QUICK = ("teacher.epochs=1", "training.epochs=1", "benchmark.texts=8", "benchmark.rounds=3")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One data set's run.

    Attributes:
        name: of the data set and of its recipe.
        data: folder that holds the data sets.
        work: folder of all runs.
        overrides: of `--set`, beyond the place of the data.
    """

    name: str
    data: Path
    work: Path
    overrides: tuple[str, ...] = ()

    @property
    def recipe_file(self) -> Path:
        """In `benchmarks/recipes/`."""
        return HERE / "recipes" / f"{self.name}.yaml"

    @property
    def output(self) -> Path:
        """The run's folder."""
        return self.work / self.name

    def all_overrides(self, data: str) -> list[str]:
        """Every `--set`, the data sets' folder given or named by a placeholder."""
        (task,) = load_recipe(self.recipe_file).tasks
        place = [] if self.name == BUILT_IN else [f"tasks.{task}.data={data}/{self.name}"]
        return [*place, *self.overrides]

    def recipe(self) -> Recipe:
        """The recipe as it is run."""
        return load_recipe(self.recipe_file, self.all_overrides(str(self.data)))

    def command(self, data: str, recipe: str, output: str) -> list[str]:
        """Arguments of `compressor`."""
        options = [part for override in self.all_overrides(data) for part in ("--set", override)]
        return ["run", recipe, *options, "--output", output]

    def key(self) -> str:
        """What the figures depend on: the recipe, wherever the data lie."""
        recipe = self.recipe().model_dump(mode="json")
        for task in recipe["tasks"].values():
            task["data"] = self.name
        return hash_json(recipe)


def main() -> None:
    """Run what is not done, write a row per data set and the table; exit 1 if a run failed."""
    arguments = _parse()
    overrides = (*(QUICK if arguments.quick else ()), *arguments.overrides)
    jobs = [Job(name, arguments.data.resolve(), arguments.work, overrides) for name in arguments.only]
    failed = []
    for job in jobs:
        if not _finish(job, arguments.results):
            failed.append(job.name)
        write_table(arguments.results, arguments.docs)
    if failed:
        sys.exit(f"these runs failed: {', '.join(failed)}. Their output is above; the same command tries them again.")


def _finish(job: Job, results: Path) -> bool:
    """Run a data set unless its row is there; False if the run broke."""
    path = results / f"{job.name}.json"
    if path.is_file() and read_json(path)["key"] == job.key():
        announce(f"{job.name}: done before ({path})")
        return True
    announce(f"{job.name}: running")
    program = str(Path(sys.executable).with_name("compressor"))
    done = subprocess.run([program, *job.command(str(job.data), str(job.recipe_file), str(job.output))], check=False)
    if done.returncode not in (0, GATES_FAILED):
        announce(f"{job.name}: `compressor run` ended with exit code {done.returncode}")
        return False
    results.mkdir(parents=True, exist_ok=True)
    write_json(path, row_of(job, read_json(job.output / REPORT_FILE), _stage_seconds(job.output / LOG_FILE)))
    return True


def row_of(job: Job, report: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What is kept of a report: the models' figures, sizes and latencies, and how they came about."""
    view = overview(report)
    ((_, task),) = report["tasks"].items()
    shown = f"benchmarks/recipes/{job.name}.yaml"
    return {
        "name": job.name,
        "key": job.key(),
        "command": shlex.join(["compressor", *job.command("DATA", shown, f"runs/{job.name}")]),
        "created": report["created"],
        "type": task["type"],
        "num_labels": len(task["labels"]),
        "rows": task["rows"],
        "dropped": task["dropped"],
        "metric": task["metric"],
        "point": str(view.point),
        "variants": {label(variant): _variant(view, variant) for variant in view.variants},
        "gates": report["gates"],
        "seconds": seconds,
        "environment": report["environment"],
    }


def label(variant: Variant) -> str:
    """Short name of a variant: teacher, student, fp32, int8, none."""
    return variant.precision or variant.name.removeprefix("control: ")


def _variant(view: Overview, variant: Variant) -> dict[str, Any]:
    score: Score | None = next(iter(variant.scores.values()), None)
    return {
        "value": score.value if score else None,
        "low": score.low if score else None,
        "high": score.high if score else None,
        "bytes": variant.num_bytes,
        "parameters": variant.parameters,
        "p50_ms": variant.p50_ms,
        "speed_up": view.speed_up(variant),
        "is_default": variant.is_default,
    }


def _stage_seconds(log: Path) -> float:
    """Time of all finished stages, of earlier calls too; what an interrupted call did in vain is not in it."""
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    finished = {event["stage"]: float(event["seconds"]) for event in events if event["event"] == "stage finished"}
    return sum(finished.values())


def write_table(results: Path, docs: Path) -> None:
    """Put the table of all rows there are between the markers of a page, which is made if it is not there."""
    rows = [read_json(path) for name in NAMES if (path := results / f"{name}.json").is_file()]
    page = docs.read_text(encoding="utf-8") if docs.is_file() else f"# Results\n\n{BEGIN}\n{END}\n"
    docs.parent.mkdir(parents=True, exist_ok=True)
    docs.write_text(splice(page, markdown(rows) if rows else "No results yet."), encoding="utf-8")


def splice(page: str, table: str) -> str:
    """The page with the table between its markers.

    Raises:
        ValueError: the page has not exactly one pair of markers.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"expected one '{BEGIN}' and, after it, one '{END}' on the page")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table.strip()}\n{END}{rest.split(END)[1]}"


def markdown(rows: Sequence[Row]) -> str:
    """Quality, cost and provenance of all rows."""
    return "\n".join([*_quality(rows), "", *_cost(rows), "", *_provenance(rows)])


def _quality(rows: Sequence[Row]) -> Iterator[str]:
    yield "| data | train, validation, test | metric | teacher | student (kd) | control (none) | student, int8 |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        sizes = ", ".join(f"{row['rows'][split]:,}" for split in ("train", "validation", "test"))
        scores = " | ".join(_score(row["variants"].get(name)) for name in ("teacher", "student", "none", "int8"))
        yield f"| {row['name']} | {sizes} | {plain_metric(row['metric'])} | {scores} |"


def _score(variant: Row | None) -> str:
    return f"{figure(variant['value'])} {interval(variant['low'], variant['high'])}".strip() if variant else "-"


def _cost(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| data | teacher, size | student, int8 | teacher, p50 ms | fp32, p50 ms | int8, p50 ms | fp32, speed-up "
        "| int8, speed-up | quantisation gate | whole run |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|---|--:|"
    for row in rows:
        teacher, fp32, int8 = (row["variants"][name] for name in ("teacher", "fp32", "int8"))
        verdicts = [gate["verdict"] for gate in row["gates"] if gate["name"] == "quantisation_metric_drop"]
        cells = [
            row["name"],
            *(megabytes(variant["bytes"]) for variant in (teacher, int8)),
            *(milliseconds(variant["p50_ms"]) for variant in (teacher, fp32, int8)),
            *(times(variant["speed_up"]) for variant in (fp32, int8)),
            ", ".join(verdicts) or "-",
            duration(row["seconds"]),
        ]
        yield f"| {' | '.join(cells)} |"


def _provenance(rows: Sequence[Row]) -> Iterator[str]:
    point = "; ".join(dict.fromkeys(row["point"] for row in rows))
    yield (
        "Figures on the test split with their 95% intervals over its texts, one seed: no claim of a gain. "
        f"Latency: {point}, test texts with their own lengths; speed-ups are over the unpadded torch teacher. "
        f"Whole run: teacher, student and control trained, exported, checked and timed. {_machines(rows)}."
    )
    yield ""
    yield "```"
    yield from (row["command"] for row in rows)
    yield "```"


def _machines(rows: Sequence[Row]) -> str:
    """Where the rows were measured; of several machines, which rows were measured on each."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(_machine(row["environment"]), []).append(row["name"])
    if len(names) == 1:
        return f"Measured on {next(iter(names))}"
    return "Measured on " + "; on ".join(f"{machine} ({', '.join(names[machine])})" for machine in names)


def _machine(host: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {host['versions'][name]}" for name in ("torch", "onnxruntime") if name in host["versions"]
    )
    return f"{host['cpu_model']}, {host['available_cpus']} CPUs, {versions}"


def _parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of splits per data set")
    parser.add_argument("--work", type=Path, default=Path("runs/results"), help="the runs")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="a small JSON file per data set")
    parser.add_argument("--docs", type=Path, default=HERE.parent / "docs" / "results.md")
    parser.add_argument("--only", nargs="+", default=list(NAMES), choices=NAMES, metavar="NAME")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
