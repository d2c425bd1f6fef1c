"""Examples per second of a training of several tasks against a training of one task of the same student.

The student is the demo's (three layers of MiniLM) on supportdesk texts, by `bam` with cached targets, here random
numbers. Both arms read as many examples in as many steps of the same batch size: one task all of them, or three tasks
a third each. A round runs both, one after the other, in an order that turns; steps are timed over the second half of a
training. What can cost more with several tasks is their heads and losses; the encoder runs once per batch in both.

    python -m benchmarks.multitask_speed --output benchmarks/results/multitask_speed.json

A training takes about 48 steps x 16 texts / 70 per second = 11 s on one thread, and 2 s to load: 2 arms x 9 rounds x
13 s = 4 minutes. What is done is kept: the same command continues.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.cells import DOCS, HERE, dtype_here, machine, machine_in_words, put_block
from benchmarks.methods_cost import StepWatch
from benchmarks.training import rotated
from compressor.data.prepare import prepare
from compressor.data.splits import TRAIN, VALIDATION, TaskData
from compressor.distillation.plan import build_plan
from compressor.distillation.training import TrainingJob, train
from compressor.distillation.weights.rule import WeightRule
from compressor.models.initialise import load_tokenizer, pretrained_model
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import announce
from compressor.recipe import TaskSettings, TrainingSettings
from export.statistics import paired_ratio

NAME = "multitask-speed"
TASKS = ("intent", "sentiment", "urgency")
ARMS: Mapping[str, tuple[str, ...]] = {"one task": TASKS[:1], "three tasks": TASKS}
GOAL = 0.9
QUICK = {"steps": 8, "rounds": 1, "batch_size": 3}
Row = Mapping[str, Any]


def main(given: Sequence[str] | None = None) -> None:
    """Run the rounds that are not done, write JSON and a block of the page."""
    arguments = _parse(given)
    settings = _settings(arguments)
    result = _begun(arguments.output, settings)
    prepared = prepare({task: TaskSettings(data="supportdesk", text="text", label=task) for task in TASKS})
    for number in range(arguments.rounds):
        for arm in rotated(list(ARMS), number):
            if any((row["arm"], row["round"]) == (arm, number) for row in result["rows"]):
                continue
            seconds = step_seconds(ARMS[arm], prepared, arguments)
            result["rows"].append({"arm": arm, "round": number, "step_seconds": seconds})
            announce(
                f"round {number + 1} of {arguments.rounds}: {arm}: {arguments.batch_size / seconds:.1f} examples/s"
            )
            write_json(arguments.output, result)
    result |= summarise(result["rows"], arguments.batch_size)
    write_json(arguments.output, result)
    put_block(arguments.docs, NAME, markdown(result))
    print(markdown(result))


def _begun(output: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier call with the same settings measured, or nothing yet."""
    if output.is_file():
        found: dict[str, Any] = read_json(output)
        if {**found["settings"], "rounds": settings["rounds"]} == settings:
            return {**found, "settings": dict(settings)}
    return {"settings": dict(settings), **machine(), "rows": []}


def step_seconds(tasks: Sequence[str], prepared: Mapping[str, TaskData], arguments: argparse.Namespace) -> float:
    """Train a student of some tasks; seconds per optimizer step over the second half of the training."""
    data = {task: share(prepared[task], arguments.steps * arguments.batch_size // len(tasks)) for task in tasks}
    plan = build_plan({"bam": {}}, patience=None)
    watch = StepWatch(plan.rule, None, first=arguments.steps // 2, last=arguments.steps)
    draw = np.random.default_rng(0)
    job = TrainingJob(
        model=pretrained_model(arguments.model, [part.task for part in data.values()], layers=arguments.layers, seed=0),
        tokenizer=load_tokenizer(arguments.model),
        data=data,
        targets={
            task: draw.normal(size=(len(part.splits[TRAIN]), part.task.num_outputs)).astype(np.float32)
            for task, part in data.items()
        },
        plan=replace(plan, rule=cast(WeightRule, watch)),
        settings=TrainingSettings(
            epochs=1,
            batch_size=arguments.batch_size,
            threads=arguments.threads,
            dtype=arguments.dtype,
            device="cpu",
            checkpoint_seconds=1e6,
        ),
        max_length=128,
        seed=0,
        label=f"{len(data)} of {len(TASKS)} tasks",
    )
    with tempfile.TemporaryDirectory() as folder:
        train(job, Path(folder))
    return float(watch.found["step_seconds"])


def share(data: TaskData, rows: int) -> TaskData:
    """So many training rows, drawn by a fixed seed; a small validation, which runs after the last timed step."""
    chosen = np.resize(np.random.default_rng(0).permutation(len(data.splits[TRAIN])), rows)
    splits = {TRAIN: data.splits[TRAIN].select(chosen), VALIDATION: data.splits[VALIDATION].select(np.arange(32))}
    return replace(data, splits=splits)


def summarise(rows: Sequence[Row], batch_size: int) -> dict[str, Any]:
    """Rates of both arms and how they compare, paired by round, JSON values."""
    ordered = sorted(rows, key=lambda row: int(row["round"]))
    seconds = {arm: np.array([row["step_seconds"] for row in ordered if row["arm"] == arm]) for arm in ARMS}
    one, several = ARMS
    ratio, low, high = paired_ratio(seconds[one], seconds[several])
    rates = {arm: batch_size / float(np.median(found)) for arm, found in seconds.items()}
    return {"examples_per_second": rates, "ratio": {"value": ratio, "low": low, "high": high}, "goal": GOAL}


def markdown(result: Mapping[str, Any]) -> str:
    """The result for people."""
    settings, ratio = result["settings"], result["ratio"]
    verdict = "reached" if ratio["low"] >= GOAL else "missed" if ratio["high"] < GOAL else "undecided"
    rates = ", ".join(f"{arm} {rate:.1f}" for arm, rate in result["examples_per_second"].items())
    return (
        f"A training of three tasks reads **{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]** times as "
        f"many examples per second as one of one task (goal {GOAL:g}: {verdict}; examples/s: {rates}). "
        f"{settings['layers']} layers, `bam`, batch {settings['batch_size']}, {settings['threads']} threads, "
        f"{settings['dtype']}; {settings['steps'] - settings['steps'] // 2} timed steps in each of "
        f"{settings['rounds']} rounds. Measured on {machine_in_words(result)}.\n"
    )


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("model", "layers", "batch_size", "steps", "rounds", "threads", "dtype")
    return {name: getattr(arguments, name) for name in names}


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "multitask_speed.json")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=48, help="of one training; the second half is timed")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default=dtype_here(), choices=("fp32", "bf16"), help="one for both arms")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    arguments = parser.parse_args(given)
    for name, value in QUICK.items() if arguments.quick else ():
        setattr(arguments, name, value)
    return arguments


if __name__ == "__main__":
    main()
