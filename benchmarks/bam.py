"""BAM in the small: one student of several tasks against single ones, by `compressor compare`.

Two families of tasks: (a) supportdesk, intent, sentiment and urgency of the same texts; (b) pairs, SICK, RTE, MRPC and
SNLI, two of them with few labels. Arms of both: Single, Multi, Single->Single, Multi->Multi, Single->Multi
(`benchmarks/recipes/bam_students.yaml`); of (a) the ablations of annealing, sampling exponent and layer-wise learning
rate too (`bam_ablations.yaml`), which `--arms` gives to (b) as well. The labelled rows are drawn once, so the teachers
are trained once; seeds draw data order and dropout. What is done is kept: the same command continues.

    python -m benchmarks.bam --data DATA --work runs/bam
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.cells import DOCS, HERE, draw_rows, dtype_here
from benchmarks.comparisons import Kept, compare_and_keep, recipe_path
from compressor.data.builtin import CORPORA
from compressor.progress import announce
from compressor.recipe_file import load_recipe

ARMS = {"supportdesk": HERE / "recipes" / "bam_ablations.yaml", "pairs": HERE / "recipes" / "bam_students.yaml"}
MAIN = {"supportdesk": "Single->Multi:none@intent", "pairs": "Single->Multi:none@rte"}
TRAIN_ROWS: dict[str, Mapping[str, int]] = {
    "supportdesk": {"intent": 240, "sentiment": 240, "urgency": 240},
    "pairs": {"sick": 300, "rte": 200, "mrpc": 200, "snli": 500},
}
QUICK_ROWS = 24
QUICK_OVERRIDES = ("training.epochs=1", "teacher.epochs=1", "student.layers=1")


def main(given: Sequence[str] | None = None) -> None:
    """Compare on both families; exit 1 at the end if one failed."""
    arguments = _parse(given)
    failed = [name for name in arguments.only if not _compared(arguments, name)]
    if failed:
        sys.exit(f"these comparisons failed: {', '.join(failed)}. The same command continues them.")


def _compared(arguments: argparse.Namespace, name: str) -> bool:
    announce(f"{name}: comparing the arms of {_arms(arguments, name)}")
    recipe = f"bam_{name}"
    kept = Kept(arguments.results, arguments.docs)
    return compare_and_keep(recipe, _options(arguments, name), arguments.work / recipe, kept)


def _options(arguments: argparse.Namespace, name: str) -> list[str]:
    """Options of `compressor compare`; all rows are drawn once."""
    overrides = [f"training.dtype={arguments.dtype}", f"training.threads={arguments.threads}", *arguments.overrides]
    for task, settings in load_recipe(recipe_path(f"bam_{name}")).tasks.items():
        train = min(TRAIN_ROWS[name][task], arguments.train_rows or sys.maxsize)
        sizes = {"train": train, "validation": arguments.validation_rows, "test": arguments.test_rows}
        data = settings.data
        source = CORPORA[data] if data in CORPORA else arguments.data / Path(data).name
        called = "-".join(map(str, (Path(data).name, *sizes.values())))
        rows = draw_rows(source, arguments.work / called, sizes)
        overrides.append(f"tasks.{task}.data={rows.resolve()}")
    options = ["--arms", str(_arms(arguments, name)), "--seeds", str(arguments.seeds), "--jobs", str(arguments.jobs)]
    settings_given = [part for override in overrides for part in ("--set", override)]
    return [*options, "--main", MAIN[name], *settings_given]


def _arms(arguments: argparse.Namespace, name: str) -> Path:
    chosen: Path = arguments.arms or ARMS[name]
    return chosen


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that holds sick/train.jsonl and so on")
    parser.add_argument("--work", type=Path, default=Path("runs/bam"), help="keeps rows and comparisons")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--only", nargs="+", default=list(MAIN), choices=list(MAIN), metavar="NAME")
    parser.add_argument("--arms", type=Path, default=None, help="as compare takes them; default: each family's own")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--dtype", default=dtype_here(), choices=("fp32", "bf16"), help="one for every cell")
    parser.add_argument("--train-rows", type=int, default=None, help="of each task, at most")
    parser.add_argument("--validation-rows", type=int, default=100)
    parser.add_argument("--test-rows", type=int, default=400)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    arguments = parser.parse_args(given)
    if arguments.quick:
        arguments.seeds = 2
        arguments.train_rows = arguments.validation_rows = arguments.test_rows = QUICK_ROWS
        arguments.overrides += QUICK_OVERRIDES
    return arguments


if __name__ == "__main__":
    main()
