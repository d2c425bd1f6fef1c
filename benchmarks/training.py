"""Examples per second of our student training against the usual distillation loop, at equal validation metric.

Both start from the same files (teacher, initial student of the round's seed, texts) and end with a trained
student on disk, with the same batch size, epochs, learning rates, loss and validation after every epoch.
The clock runs over everything between: loading, tokenising, and for ours the calibration of the dtype and the
teacher's targets. `benchmarks.training_arms` holds the loops.

A round has one seed and runs its arms one after the other, in an order that rotates. The main rounds compare the
two loops and their students; the part rounds, on fewer rows, take our savings away one at a time, and show the
usual loop padded to the full length beside them as what it is: no saving that anybody should be sold.

    python -m benchmarks.training --work runs/training --output runs/training.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.training_arms import MAIN_ARMS, OURS, PART_ARMS, USUAL, Arm, Ground
from compressor.data.splits import TRAIN, VALIDATION, TaskData
from compressor.distillation.training import DECISION_FILE
from compressor.models.checkpoint import save_checkpoint
from compressor.models.initialise import load_tokenizer, pretrained_model
from compressor.models.teacher import teacher_logits
from compressor.pipeline.learning import load_data
from compressor.pipeline.run import RunFolder
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import announce
from compressor.recipe import Recipe
from compressor.recipe_file import load_recipe
from compressor.recipes import DEMO
from export.statistics import bootstrap_interval, paired_ratio
from serving.answers import decide
from serving.errors import UserError
from serving.host import describe_host

GOAL = 2.0
QUICK = {"rows": 48, "epochs": 1, "rounds": 1, "part_rows": 32, "part_rounds": 1}
Row = Mapping[str, Any]


def main() -> None:
    """Train the teacher once, run the rounds, write JSON and a table."""
    arguments = _parse()
    recipe = load_recipe(arguments.recipe)
    training = recipe.training.model_copy(update={"epochs": arguments.epochs, "device": "cpu"})
    timed = recipe.model_copy(update={"training": training})
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        data, teacher = _teacher(recipe, arguments.work, arguments.stages)
        grounds = [_ground(data, teacher, timed, seed, scratch) for seed in range(arguments.rounds)]
        parts = [_ground(data, teacher, timed, seed, scratch) for seed in range(arguments.part_rounds)]
        host = describe_host()
        announce("warming up")
        run_rounds(MAIN_ARMS, [with_rows(grounds[0], recipe.training.batch_size)], scratch)
        main_rows = run_rounds(MAIN_ARMS, [with_rows(ground, arguments.rows) for ground in grounds], scratch)
        part_rows = run_rounds(PART_ARMS, [with_rows(ground, arguments.part_rows) for ground in parts], scratch)
    result = summarise(main_rows, part_rows) | {"settings": _settings(arguments, timed)}
    result |= {"host": host, "torch": torch.__version__}
    write_json(arguments.output, result)
    table = markdown(result)
    arguments.output.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


def _teacher(recipe: Recipe, work: Path, stages: Path | None) -> tuple[TaskData, Path]:
    """The prepared task and its fine-tuned teacher, from the stage store if they are there."""
    if len(recipe.tasks) != 1:
        raise UserError(f"the recipe has {len(recipe.tasks)} tasks, expected one. Name a recipe with one task.")
    run = RunFolder.open(work, recipe, stages=stages)
    pipeline = run.pipeline
    (stage,) = pipeline.teachers.values()
    run.run(stage)
    (data,) = load_data(pipeline.path(pipeline.data)).values()
    if data.task.type != "classification":
        raise UserError(f"task '{data.task.name}' is a {data.task.type}, expected a classification.")
    return data, pipeline.path(stage)


def _ground(data: TaskData, teacher: Path, recipe: Recipe, seed: int, scratch: Path) -> Ground:
    """The ground of a seed, its initial student on disk."""
    student = scratch / f"student-{seed}"
    if not student.is_dir():
        base = recipe.student_model()
        model = pretrained_model(base, [data.task], layers=recipe.student.layers, seed=seed)
        save_checkpoint(student, model, load_tokenizer(base))
    return Ground(data, teacher, student, recipe, seed)


def with_rows(ground: Ground, rows: int) -> Ground:
    """The ground with so many training rows, the same ones for every seed."""
    train = ground.data.splits[TRAIN]
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:rows])
    splits = {TRAIN: train.select(chosen), VALIDATION: ground.data.splits[VALIDATION]}
    return replace(ground, data=replace(ground.data, splits=splits))


def run_rounds(arms: Mapping[str, Arm], grounds: Sequence[Ground], scratch: Path) -> list[dict[str, Any]]:
    """Every arm on every ground, one ground after the other; one row per training."""
    rows = []
    for number, ground in enumerate(grounds):
        for name in rotated(list(arms), number):
            with tempfile.TemporaryDirectory(dir=scratch) as place:
                rows.append({"arm": name, "round": number, **_timed(arms[name], ground, Path(place))})
            announce(f"round {number + 1}: {name}: {rows[-1]['examples_per_second']:.1f} examples/s")
    return rows


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The names in their order, beginning with another one each round."""
    return [names[(place + by) % len(names)] for place in range(len(names))]


def _timed(arm: Arm, ground: Ground, folder: Path) -> dict[str, Any]:
    """Seconds and rate of one training, its dtype, and per validation text whether its student is right."""
    started = time.perf_counter()
    arm(ground, folder)
    seconds = time.perf_counter() - started
    task, rows = ground.data.task, ground.data.splits[VALIDATION]
    logits = teacher_logits(folder, rows.texts, task, max_length=ground.recipe.max_length)
    decision = read_json(folder / DECISION_FILE) if (folder / DECISION_FILE).is_file() else {}
    return {
        "seconds": seconds,
        "examples_per_second": ground.num_examples / seconds,
        "dtype": decision.get("dtype", "fp32"),
        "hits": [int(hit) for hit in decide(logits, task) == rows.labels],
    }


def summarise(main_rows: Sequence[Row], part_rows: Sequence[Row]) -> dict[str, Any]:
    """What is said of the rounds, JSON values."""
    return {
        "goal": GOAL,
        "speed_up": compare(main_rows, slower=USUAL, faster=OURS),
        "accuracy": accuracy_difference(main_rows),
        "main": list(_arms(main_rows)),
        "parts": list(_arms(part_rows)),
    }


def _arms(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for arm in dict.fromkeys(str(row["arm"]) for row in rows if row["round"] == 0):
        own = [row for row in rows if row["arm"] == arm]
        yield {
            "arm": arm,
            "seconds": [row["seconds"] for row in own],
            "examples_per_second": float(np.median([row["examples_per_second"] for row in own])),
            "dtypes": sorted({str(row["dtype"]) for row in own}),
            "accuracy": [float(np.mean(row["hits"])) for row in own],
            "slower_than_ours": compare(rows, slower=arm, faster=OURS),
        }


def compare(rows: Sequence[Row], *, slower: str, faster: str) -> dict[str, float]:
    """How many times faster one arm is than another: paired by round, with the 95% interval over the rounds."""
    seconds = {
        arm: np.array([row["seconds"] for row in sorted(rows, key=lambda row: int(row["round"])) if row["arm"] == arm])
        for arm in (slower, faster)
    }
    ratio, low, high = paired_ratio(seconds[slower], seconds[faster])
    return {"ratio": ratio, "low": low, "high": high}


def accuracy_difference(rows: Sequence[Row]) -> dict[str, float]:
    """Validation accuracy of ours minus the usual loop's: mean over these seeds, interval over the texts."""
    ours, usual = (np.mean([row["hits"] for row in rows if row["arm"] == arm], axis=0) for arm in (OURS, USUAL))
    value, low, high = bootstrap_interval(lambda a, b: float(np.mean(a - b)), ours, usual, samples=2000)
    return {"ours": float(ours.mean()), "usual": float(usual.mean()), "difference": value, "low": low, "high": high}


def _settings(arguments: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    counts = {name: getattr(arguments, name) for name in ("rows", "rounds", "part_rows", "part_rounds")}
    student = {"model": recipe.student_model(), "layers": recipe.student.layers}
    training = recipe.training.model_dump(mode="json")
    return {**counts, "recipe": recipe.name, "student": student, "method": recipe.method, "training": training}


def markdown(result: Mapping[str, Any]) -> str:
    """The result for people."""
    settings, speed, accuracy, host = (result[name] for name in ("settings", "speed_up", "accuracy", "host"))
    training = settings["training"]
    verdict = "reached" if speed["low"] >= GOAL else "missed" if speed["high"] < GOAL else "undecided"
    lines = [
        f"{host['cpu_model']}, {host['available_cpus']} CPUs, torch {result['torch']}; load at the start "
        f"{host['load_average'][0]:.1f}. Recipe `{settings['recipe']}`, {settings['student']['layers']} layers, "
        f"batch {training['batch_size']}, {training['epochs']} epochs.",
        "",
        f"Ours is **{_ratio(speed)} times** as fast as the usual loop (goal {GOAL:g}: {verdict}), at validation "
        f"accuracy {accuracy['ours']:.3f} against {accuracy['usual']:.3f}, difference {accuracy['difference']:+.3f} "
        f"[{accuracy['low']:+.3f}, {accuracy['high']:+.3f}] over the texts, mean of the seeds.",
        "",
        *_table(f"{settings['rows']} rows, {settings['rounds']} seeds", result["main"]),
        "",
        *_table(f"{settings['part_rows']} rows, {settings['part_rounds']} seeds", result["parts"]),
    ]
    return "\n".join(lines) + "\n"


def _table(title: str, arms: Sequence[Row]) -> Iterator[str]:
    yield f"| {title} | examples/s | dtype | validation accuracy | time over ours |"
    yield "|---|--:|---|--:|--:|"
    for arm in arms:
        accuracies = ", ".join(f"{value:.3f}" for value in arm["accuracy"])
        rate, dtypes, ratio = arm["examples_per_second"], " and ".join(arm["dtypes"]), arm["slower_than_ours"]
        yield f"| {arm['arm']} | {rate:.1f} | {dtypes} | {accuracies} | {_ratio(ratio)} |"


def _ratio(found: Mapping[str, float]) -> str:
    return f"{found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=DEMO, help="of one classification task; method kd")
    parser.add_argument("--work", type=Path, default=Path("runs/training"), help="keeps the teacher")
    parser.add_argument("--stages", type=Path, help="a stage store that may have the teacher already")
    parser.add_argument("--output", type=Path, default=Path("training.json"), help="and a .md beside it")
    parser.add_argument("--rows", type=int, default=864, help="training rows of the main rounds")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="main rounds, a seed each")
    parser.add_argument("--part-rows", type=int, default=192, help="training rows of the part rounds")
    parser.add_argument("--part-rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few rows, to see that it runs; figures mean nothing")
    arguments = parser.parse_args(given)
    for name, value in QUICK.items() if arguments.quick else ():
        setattr(arguments, name, value)
    return arguments


if __name__ == "__main__":
    main()
