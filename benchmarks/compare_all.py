"""`compressor compare` over all methods on supportdesk and SST-2; its result is copied to `benchmarks/results/`.

The recipes are `benchmarks/recipes/compare_supportdesk.yaml` and `compare_sst2.yaml`; each seed draws its own labelled
rows and data order. What is done is kept: the same command continues.

    python -m benchmarks.compare_all --data DATA --work runs/compare_all

On one thread, two layers at 70 to 100 examples/s: 11 trainings (avg and vote share theirs) x 360 rows x 4 epochs
(480 x 3 of SST-2) x 4 seeds = 26 minutes for both sets, 5 for the teachers (each seed draws its labels, so it has its
own) and 4 for the evaluations. `--jobs 2` takes both cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cells import DOCS, HERE, draw_rows, dtype_here
from benchmarks.comparisons import Kept, compare_and_keep, recipe_path
from compressor.data.builtin import CORPORA
from compressor.progress import announce
from compressor.recipe_file import load_recipe

SETS = ("supportdesk", "sst2")
METHODS = "none,kd,sda,sdv,swa,se,ema:decay=0.95,avg,vote,kd+sda,kd+swa"
QUICK = {"validation_rows": 24, "test_rows": 24, "seeds": 2, "methods": "none,sda,swa"}
QUICK_OVERRIDES = ("train_rows=24", "training.epochs=1", "student.layers=1")


def main(given: Sequence[str] | None = None) -> None:
    """Compare on every data set; exit 1 at the end if one failed."""
    arguments = _parse(given)
    failed = []
    for name in arguments.only:
        if not _compared(arguments, name):
            failed.append(name)
    if failed:
        sys.exit(f"these comparisons failed: {', '.join(failed)}. The same command continues them.")


def _compared(arguments: argparse.Namespace, name: str) -> bool:
    announce(f"{name}: comparing {arguments.methods}")
    recipe = f"compare_{name}"
    kept = Kept(arguments.results, arguments.docs)
    return compare_and_keep(recipe, _options(arguments, name), arguments.work / recipe, kept)


def _options(arguments: argparse.Namespace, name: str) -> list[str]:
    """Options of `compressor compare`; the evaluation rows are drawn once, the training rows by every seed."""
    (task,) = load_recipe(recipe_path(f"compare_{name}")).tasks
    sizes = {"train": None, "validation": arguments.validation_rows, "test": arguments.test_rows}
    source = CORPORA[name] if name in CORPORA else arguments.data / name
    called = f"{name}-{arguments.validation_rows}-{arguments.test_rows}"
    rows = draw_rows(source, arguments.work / called, sizes)
    overrides = [f"tasks.{task}.data={rows.resolve()}", f"training.dtype={arguments.dtype}"]
    overrides += [f"tasks.{task}.{o}" if o.startswith("train_rows") else o for o in arguments.overrides]
    options = ["--methods", arguments.methods, "--seeds", str(arguments.seeds), "--jobs", str(arguments.jobs)]
    overrides.append(f"training.threads={arguments.threads}")
    settings = [part for override in overrides for part in ("--set", override)]
    return [*options, "--main", arguments.main, *settings]


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that holds sst2/train.jsonl and so on")
    parser.add_argument("--work", type=Path, default=Path("runs/compare_all"), help="keeps rows and comparisons")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--only", nargs="+", default=list(SETS), choices=SETS, metavar="NAME")
    parser.add_argument("--methods", default=METHODS, help="as compare takes them")
    parser.add_argument("--main", default="kd:none", help="the comparison named before the run")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--dtype", default=dtype_here(), choices=("fp32", "bf16"), help="one for every cell")
    parser.add_argument("--validation-rows", type=int, default=100)
    parser.add_argument("--test-rows", type=int, default=400)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    arguments = parser.parse_args(given)
    for name, value in QUICK.items() if arguments.quick else ():
        setattr(arguments, name, value)
    if arguments.quick:
        arguments.main = "swa:none"
        arguments.overrides += QUICK_OVERRIDES
    return arguments


if __name__ == "__main__":
    main()
