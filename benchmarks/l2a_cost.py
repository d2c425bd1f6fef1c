r"""Where the time of L2A goes: 200 labels, 2,000 source rows and 15 candidates per label, from the data to the student.

The recipe is that of the comparison of kitchen reviews (`recipes/l2a_kitchen.yaml`) with every default of `l2a`, its
own masked language model included. Each stage is timed by itself; what is done is kept, so an interrupted measurement
continues. The machine should do nothing else.

    python -m benchmarks.l2a_cost --data DATA --work runs/l2a-cost
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import DOCS, HERE, dtype_here, machine, machine_in_words, put_block
from benchmarks.comparisons import recipe_path
from benchmarks.l2a import drawn_places
from compressor.data.splits import SOURCE, TRAIN
from compressor.models.initialise import load_tokenizer
from compressor.pipeline.augmentation_facts import augmentation_facts
from compressor.pipeline.graph import Pipeline
from compressor.pipeline.learning import load_data
from compressor.pipeline.stages import StageStore, needed_for, run_stages, write_json
from compressor.recipe import Recipe
from compressor.recipe_file import load_recipe
from compressor.report.augmentation import STEPS
from serving.host import available_cpus

NAME = "l2a-cost"
GOAL_MINUTES = 30.0
TASK = "sentiment"
QUICK = ("training.steps=2", "student.layers=1", "teacher.epochs=1")
QUICK_METHOD = "l2a:mlm_steps=1:episodes=2:min_confidence=0:min_margin=0:max_edit_ratio=1"


def main(given: Sequence[str] | None = None) -> None:
    """Run the stages, and write what each took."""
    arguments = _parse(given)
    path = recipe_path("l2a_kitchen")
    recipe = load_recipe(path, _overrides(arguments, load_recipe(path)))
    pipeline = Pipeline(recipe, StageStore(arguments.work))
    run_stages(pipeline.store, needed_for(pipeline.student))
    result = {"name": NAME, **machine(), "threads": arguments.threads, **measured(pipeline)}
    write_json(arguments.results / "l2a_cost.json", result)
    put_block(arguments.docs, NAME, markdown(result))
    print(markdown(result))


def measured(pipeline: Pipeline) -> dict[str, Any]:
    """What was read and made, and the seconds of every stage up to the student.

    Returns:
        `seconds`: per step, those of the added texts as the report names them and of everything else per stage;
        `together`: their sum; and the sizes that they belong to.
    """
    store = pipeline.store
    facts = augmentation_facts(pipeline)[TASK]
    task = load_data(pipeline.path(pipeline.data))[TASK]
    tokens = load_tokenizer(pipeline.recipe.student_model())([text for (text,) in task.splits[SOURCE].texts])[
        "input_ids"
    ]
    stages = needed_for(pipeline.student)
    inside = {"masked-lm", f"candidates-{TASK}", f"selection-{TASK}"}
    others = {stage.label.split(" (")[0]: store.seconds(stage) for stage in stages if stage.name not in inside}
    return {
        "labels": len(task.splits[TRAIN]),
        "source_rows": len(task.splits[SOURCE]),
        "generated": facts["counts"]["generated"],
        "tokens": float(np.minimum([len(one) for one in tokens], pipeline.recipe.max_length).mean()),
        "max_length": pipeline.recipe.max_length,
        "masked_lm_steps": facts["knobs"]["mlm_steps"],
        "seconds": {**{STEPS[step]: seconds for step, seconds in facts["seconds"].items()}, **others},
        "together": sum(store.seconds(stage) for stage in stages),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The table, most expensive first, and the sentence under it."""
    minutes = result["together"] / 60
    rows = sorted(result["seconds"].items(), key=lambda item: -item[1])
    shown = [(step, seconds) for step, seconds in rows if seconds >= 1.0]
    rest = result["together"] - sum(seconds for _, seconds in shown)
    lines = ["| step | seconds |", "|---|--:|", *(f"| {step} | {seconds:.0f} |" for step, seconds in shown)]
    lines += [f"| everything else | {rest:.0f} |", f"| together | {result['together']:.0f} |", ""]
    verdict = "reached" if minutes <= GOAL_MINUTES else "missed"
    lines.append(
        f"{result['labels']} labels, {result['source_rows']:,} source texts of {result['tokens']:.0f} tokens on "
        f"average (at most {result['max_length']}), {result['generated']:,} chains: **{minutes:.1f} minutes** (goal "
        f"{GOAL_MINUTES:.0f}: {verdict}) with {result['threads']} threads. {machine_in_words(result)}."
    )
    return "\n".join(lines)


def _overrides(arguments: argparse.Namespace, recipe: Recipe) -> list[str]:
    """Rows drawn once, the labels, and every default of the method."""
    sizes = {"validation": 50, "test": 100}
    return [
        *drawn_places(recipe, arguments.data, arguments.work, sizes, source_rows=arguments.source_rows),
        f"tasks.{TASK}.train_rows={arguments.labels}",
        f"training.dtype={arguments.dtype}",
        f"training.threads={arguments.threads}",
        f"method={QUICK_METHOD if arguments.quick else 'l2a'}",
        *(QUICK if arguments.quick else ()),
        *arguments.overrides,
    ]


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder that holds amazon_kitchen/train.jsonl and so on"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/l2a-cost"), help="keeps rows and stages")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--source-rows", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--dtype", default=dtype_here(), choices=("fp32", "bf16"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    arguments = parser.parse_args(given)
    if arguments.quick:
        arguments.labels, arguments.source_rows = 24, 24
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    main()
