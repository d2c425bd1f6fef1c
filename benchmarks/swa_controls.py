"""SWA against its controls at equal budget, on RTE, MRPC, a subset of SST-2, TREC and supportdesk, over seeds.

Three trainings per data set and seed, from the same initial weights, on the same rows in the same order (both drawn
by the seed), of the same number of steps: `swa`, `none` (linear decay at N) and `ema` (the run of `none`, averaged).
From them:

| compared | with |
|---|---|
| always the average (what the claim is about) | linear decay at N; the same run's last iterate; the EMA |
| average or last iterate, chosen by validation | linear decay or EMA, chosen by validation |

Both choices have two candidates at the end of one trajectory and take the lower validation loss, then the higher
metric. Differences are paired over seeds and test texts by the statistics of `compressor compare`; Holm's correction
covers the whole table.

Source of the controls: Lu et al. (2022), arXiv:2212.05956, and our reading of what its claim needs.

    python -m benchmarks.swa_controls --data DATA --work runs/swa_controls --threads 1

Every cell is saved when it is done; the same command continues. On one thread, two layers at 110 examples/s for 25
tokens (RTE has 70, MRPC 53, SST-2 25, TREC 14, supportdesk 40): 320 rows x 2 epochs x 8.1 (the sum over the sets, in
texts of 25 tokens) x 3 trainings x 5 seeds / 100 = 13 minutes, and 6 for the evaluations. `--only`, `--seeds` and
`--rows` change that.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cells import (
    DOCS,
    HERE,
    Answers,
    ask_last_iterate,
    draw_rows,
    dtype_here,
    machine,
    machine_in_words,
    put_block,
    train_and_ask,
)
from compressor.comparison.statistics import holm, paired_difference, resampled_scores, smallest_visible
from compressor.data.builtin import CORPORA
from compressor.distillation.presets import parse_method_text
from compressor.distillation.weights.swa import choose
from compressor.pipeline.stages import StageStore, write_json
from compressor.progress import announce
from compressor.recipe import Recipe
from compressor.recipe_file import changed_recipe, load_recipe
from compressor.report.wording import plain_metric
from compressor.tasks.registry import TASKS

NAME = "swa-controls"
SETS = ("rte", "mrpc", "sst2", "trec6", "supportdesk")
AVERAGE, LAST, SELECTED = "swa, always average", "swa, always last", "swa, selected"
LINEAR, EMA, SELECTED_CONTROL = "none, linear decay", "ema", "none or ema, selected"
COMPARISONS = ((AVERAGE, LINEAR), (AVERAGE, LAST), (AVERAGE, EMA), (SELECTED, SELECTED_CONTROL))
QUICK = {"rows": 24, "validation_rows": 16, "test_rows": 16, "seeds": 2, "epochs": 1, "layers": 1}
Candidates = Mapping[str, Answers]


def main(given: Sequence[str] | None = None) -> None:
    """Run the cells, data set by data set, and write the result after each."""
    arguments = _parse(given)
    torch.set_num_threads(arguments.threads)
    store = StageStore(arguments.work / "stages")
    result: dict[str, Any] = {"settings": _settings(arguments), **machine(), "cells": [], "sets": {}}
    for name in arguments.only:
        recipe = _recipe(arguments, name)
        runs = []
        for seed in range(arguments.seeds):
            announce(f"{name}: seed {seed + 1} of {arguments.seeds}")
            runs.append(candidates(recipe, store, seed=seed, decay=arguments.ema_decay))
            scores = {label: answers.score() for label, answers in runs[-1].items()}
            result["cells"].append({"set": name, "seed": seed, "scores": scores})
            write_json(arguments.output, result)
        result["sets"][name] = summarise(runs)
        _correct(result["sets"])
        write_json(arguments.output, result)
        put_block(arguments.docs, NAME, markdown(result))
    print(markdown(result))


def _recipe(arguments: argparse.Namespace, name: str) -> Recipe:
    """The data set's recipe on its drawn rows, with the student and the budget of this script."""
    recipe = load_recipe(HERE / "recipes" / f"{name}.yaml")
    (task,) = recipe.tasks
    sizes = {"train": None, "validation": arguments.validation_rows, "test": arguments.test_rows}
    source = CORPORA[name] if name in CORPORA else arguments.data / name
    called = f"{name}-{arguments.validation_rows}-{arguments.test_rows}"
    changes = {
        f"tasks.{task}.data": str(draw_rows(source, arguments.work / called, sizes)),
        f"tasks.{task}.train_rows": arguments.rows,
        "student": {"model": arguments.model, "layers": arguments.layers},
        "training.epochs": arguments.epochs,
        "training.batch_size": arguments.batch_size,
        "training.threads": arguments.threads,
        "training.dtype": arguments.dtype,
    }
    return changed_recipe(recipe, changes, origin=name)


def candidates(recipe: Recipe, store: StageStore, *, seed: int, decay: float) -> dict[str, Answers]:
    """The six sets of answers of one seed."""
    found, pipelines = {}, {}
    (task,) = recipe.tasks
    of_the_seed = {"order_seed": seed, f"tasks.{task}.train_rows_seed": seed}
    for arm, text in (("none", "none"), ("ema", f"ema:decay={decay}"), ("swa", "swa")):
        changes = {"method": parse_method_text(text), **of_the_seed}
        pipelines[arm], found[arm] = train_and_ask(changed_recipe(recipe, changes, origin=arm), store)
    swa = {"average": found["swa"], "last": ask_last_iterate(pipelines["swa"])}
    control = {"average": found["ema"], "last": found["none"]}
    return {
        AVERAGE: swa["average"],
        LAST: swa["last"],
        SELECTED: selected(swa),
        LINEAR: found["none"],
        EMA: found["ema"],
        SELECTED_CONTROL: selected(control),
    }


def selected(pair: Mapping[str, Answers]) -> Answers:
    """The better of two on validation, by the rule that swa itself chooses by."""
    return pair[choose(pair["average"].validation_figures(), pair["last"].validation_figures())]


def summarise(runs: Sequence[Candidates]) -> dict[str, Any]:
    """Mean scores over the seeds and the comparisons of one data set, not yet corrected."""
    task = runs[0][AVERAGE].data.task
    metric = TASKS[task.type].metrics[task.metric]
    labels = runs[0][AVERAGE].test_labels
    names = (AVERAGE, LAST, SELECTED, LINEAR, EMA, SELECTED_CONTROL)
    scores = {name: np.array([run[name].score() for run in runs]) for name in names}
    drawn = {name: resampled_scores(metric, labels, [run[name].test_answers for run in runs]) for name in names}
    return {
        "metric": task.metric,
        "rows": {split: len(part) for split, part in runs[0][AVERAGE].data.splits.items()},
        "seeds": len(runs),
        "mean": {name: float(found.mean()) for name, found in scores.items()},
        "comparisons": [
            _compared(scores[a] - scores[b], drawn[a] - drawn[b], method=a, control=b) for a, b in COMPARISONS
        ],
    }


def _compared(per_seed: np.ndarray, drawn: np.ndarray, *, method: str, control: str) -> dict[str, Any]:
    found = paired_difference(per_seed, drawn)
    return {
        "method": method,
        "control": control,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "visible": smallest_visible(found.standard_error, found.num_seeds),
        "per_seed": list(found.per_seed),
    }


def _correct(sets: Mapping[str, Any]) -> None:
    """Holm's correction over every comparison of every set that is done."""
    rows = [row for facts in sets.values() for row in facts["comparisons"] if row["p_value"] is not None]
    for row, corrected in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["holm_p"] = corrected


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = (
        "model", "rows", "validation_rows", "test_rows", "seeds", "epochs", "batch_size", "layers", "ema_decay",
        "threads", "dtype",
    )  # fmt: skip
    return {name: getattr(arguments, name) for name in names}


def markdown(result: Mapping[str, Any]) -> str:
    """The result for people."""
    settings = result["settings"]
    lines = [
        f"{settings['layers']} layers, {settings['seeds']} seeds, at most {settings['rows']} training rows and "
        f"{settings['test_rows']} test rows per set, {settings['epochs']} epochs, batch {settings['batch_size']}, gold "
        f"labels, EMA decay {settings['ema_decay']:g}. Measured on {machine_in_words(result)}.",
        "",
        "| data | metric | always average | always last | selected | none | ema | none or ema, selected |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, facts in result["sets"].items():
        means = " | ".join(f"{facts['mean'][label]:.3f}" for label in facts["mean"])
        lines.append(f"| {name} | {plain_metric(facts['metric'])} | {means} |")
    lines += [
        "",
        "| data | compared | difference, 95% interval | p (Holm) | smallest that would have been seen |",
        "|---|---|--:|--:|--:|",
    ]
    lines += [_row(name, row) for name, facts in result["sets"].items() for row in facts["comparisons"]]
    return "\n".join(lines) + "\n"


def _row(name: str, row: Mapping[str, Any]) -> str:
    interval = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    p_value = "-" if row["p_value"] is None else f"{row['holm_p']:.3f}"
    visible = "-" if row["visible"] is None else f"{row['visible']:.3f}"
    return f"| {name} | {row['method']} - {row['control']} | {interval} | {p_value} | {visible} |"


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of splits per data set")
    parser.add_argument("--work", type=Path, default=Path("runs/swa_controls"), help="keeps rows and trainings")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "swa_controls.json")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--only", nargs="+", default=list(SETS), choices=SETS, metavar="NAME")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--rows", type=int, default=320, help="training rows per set")
    parser.add_argument("--validation-rows", type=int, default=150, help="per set, at most")
    parser.add_argument("--test-rows", type=int, default=500, help="per set, at most")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--ema-decay", type=float, default=0.95, help="0.95 remembers about 20 of the 80 steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default=dtype_here(), choices=("fp32", "bf16"), help="one for every cell")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    arguments = parser.parse_args(given)
    for name, value in QUICK.items() if arguments.quick else ():
        setattr(arguments, name, value)
    return arguments


if __name__ == "__main__":
    main()
