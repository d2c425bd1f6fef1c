"""What every method costs: step time and peak memory against the control, and the bytes of tensors it holds.

The student is the demo's (three layers of MiniLM) on supportdesk texts. Every arm of a round is a process of its own,
because a process's peak memory never falls; the arms of a round run one after the other on the same batches, in an
order that rotates. Steps are timed from the middle of the training on, where swa averages, so its ratio is that of
its averaging phase. What kd costs is the loss alone: its teacher's targets are cached, here random numbers.

    python -m benchmarks.methods_cost --output benchmarks/results/methods_cost.json

A process takes about 8 s to load and 48 steps x 16 texts / 70 per second = 11 s to train (one thread, 40 tokens), the
self-distilling ones up to twice that: 12 arms x 5 rounds x 22 s = 22 minutes. What is done is kept: the same command
continues. `--device cuda` measures the accelerator's memory too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cells import DOCS, HERE, dtype_here, machine, machine_in_words, put_block
from benchmarks.training import rotated
from compressor.data.prepare import prepare
from compressor.data.splits import TRAIN, VALIDATION, TaskData
from compressor.distillation.plan import build_plan
from compressor.distillation.presets import label_of, parse_method_text
from compressor.distillation.training import TrainingJob, train
from compressor.distillation.weights.rule import WeightRule
from compressor.models.initialise import load_tokenizer, pretrained_model
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import announce
from compressor.recipe import TaskSettings, TrainingSettings
from export.statistics import paired_ratio

NAME = "methods-cost"
CONTROL = "none"
ARMS = (
    CONTROL, "kd", "swa:every=1", "swa:every=10", "se", "ema",
    "sda", "sda:k=3", "sda:k=3:snapshots=cpu", "sda:k=all", "sdv", "sdv:k=3",
)  # fmt: skip
GOALS = {"sda": 1.5, "swa:every=10": 1.02}
QUICK = {"steps": 20, "rounds": 1, "batch_size": 2}
Row = Mapping[str, Any]


def main(given: Sequence[str] | None = None) -> None:
    """Run the rounds, or, as a child, measure one arm and print it."""
    arguments = _parse(given)
    if arguments.arm:
        print(json.dumps(measure(arguments.arm, arguments)))
        return
    settings = _settings(arguments)
    result = _begun(arguments.output, settings)
    for number in range(arguments.rounds):
        for arm in rotated(list(arguments.arms), number):
            if any((row["arm"], row["round"]) == (arm, number) for row in result["rows"]):
                continue
            result["rows"].append({"arm": arm, "round": number, **_in_a_process(arm, settings)})
            step = 1000 * result["rows"][-1]["step_seconds"]
            announce(f"round {number + 1} of {arguments.rounds}: {arm}: {step:.1f} ms per step")
            write_json(arguments.output, result)
    result["arms"] = summarise(result["rows"])
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


def _in_a_process(arm: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    options = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "benchmarks.methods_cost", "--arm", arm, *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE.parent)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(arm: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train by one method in this process; seconds per step, peak memory, bytes held."""
    data = _data(arguments.steps * arguments.batch_size)
    plan = build_plan(parse_method_text(arm), patience=None)
    watch = StepWatch(plan.rule, plan.self_teacher, first=arguments.steps // 2, last=arguments.steps)
    targets = np.random.default_rng(0).normal(size=(len(data.splits[TRAIN]), len(data.task.labels)))
    job = TrainingJob(
        model=pretrained_model(arguments.model, [data.task], layers=arguments.layers, seed=0),
        tokenizer=load_tokenizer(arguments.model),
        data={data.task.name: data},
        targets={data.task.name: targets.astype(np.float32)},
        plan=replace(plan, rule=cast(WeightRule, watch)),
        settings=TrainingSettings(
            epochs=1,
            batch_size=arguments.batch_size,
            threads=arguments.threads,
            dtype=arguments.dtype,
            device=arguments.device,
            checkpoint_seconds=1e6,
        ),
        max_length=128,
        seed=0,
        label=arm,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(job, Path(folder))
    return watch.found


def _data(rows: int) -> TaskData:
    """So many training rows of supportdesk; a small validation, which runs after the last timed step."""
    settings = TaskSettings(data="supportdesk", text="text", label="intent", metric="accuracy")
    data = prepare({"intent": settings})["intent"]
    chosen = np.random.default_rng(0).permutation(len(data.splits[TRAIN]))
    chosen = np.resize(chosen, rows)
    splits = {TRAIN: data.splits[TRAIN].select(chosen), VALIDATION: data.splits[VALIDATION].select(np.arange(32))}
    return replace(data, splits=splits)


class StepWatch:
    """A plan's weight rule with a watch on it: times the steps, and looks at the memory after the last one."""

    def __init__(self, rule: WeightRule, teacher: Any, *, first: int, last: int) -> None:
        """Args: rule; self-teacher or None; the steps between which the time is taken."""
        self._rule, self._teacher = rule, teacher
        self._first, self._last = first, last
        self._started = 0.0
        self.found: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def after_step(self, model: nn.Module, step: int) -> None:
        """As the rule does, and note the time."""
        self._rule.after_step(model, step)
        if step not in (self._first, self._last):
            return
        if next(model.parameters()).is_cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if step == self._first:
            self._started = now
            return
        states = [part.state() for part in (self._rule, self._teacher) if part is not None]
        self.found = {
            "step_seconds": (now - self._started) / (self._last - self._first),
            "peak_bytes": peak_memory(),
            "held_bytes": held_bytes(states),
            "device_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        }


def peak_memory(status: Path = Path("/proc/self/status")) -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not say.

    Not `getrusage`: what that says of a child begins with its parent's peak.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8")) if status.is_file() else None
    return 1024 * int(found[1]) if found else None


def held_bytes(value: object) -> int:
    """Bytes of all tensors in nested states, each once."""
    found = {(tensor.device, tensor.data_ptr()): tensor for tensor in _tensors(value)}
    return sum(tensor.numel() * tensor.element_size() for tensor in found.values())


def _tensors(value: object) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Per arm its time, memory and their relation to the control of the same rounds."""
    control = {int(row["round"]): row for row in rows if row["arm"] == CONTROL}
    found = []
    for arm in dict.fromkeys(str(row["arm"]) for row in sorted(rows, key=lambda row: _place(str(row["arm"])))):
        own = [row for row in rows if row["arm"] == arm and row["round"] in control]
        pairs = [(row["step_seconds"], control[int(row["round"])]["step_seconds"]) for row in own]
        ratio, low, high = paired_ratio(*(np.array(side) for side in zip(*pairs, strict=True)))
        found.append(
            {
                "arm": arm,
                "label": label_of(parse_method_text(arm)),
                "step_ms": 1000 * float(np.median([row["step_seconds"] for row in own])),
                "ratio": {"value": ratio, "low": low, "high": high},
                "goal": GOALS.get(arm),
                **{name: _middle(own, name) for name in ("peak_bytes", "held_bytes", "device_bytes")},
                "more_bytes": _more_memory(own, control),
            }
        )
    return found


def _place(arm: str) -> int:
    return ARMS.index(arm) if arm in ARMS else len(ARMS)


def _middle(rows: Sequence[Row], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return float(np.median(known)) if known else None


def _more_memory(rows: Sequence[Row], control: Mapping[int, Row]) -> float | None:
    """Median over the rounds of the peak beyond the control's."""
    pairs = [(row["peak_bytes"], control[int(row["round"])]["peak_bytes"]) for row in rows]
    known = [own - other for own, other in pairs if own is not None and other is not None]
    return float(np.median(known)) if known else None


def markdown(result: Mapping[str, Any]) -> str:
    """The result for people."""
    settings = result["settings"]
    lines = [
        f"{settings['layers']} layers, batch {settings['batch_size']}, {settings['threads']} threads, "
        f"{settings['dtype']}, {settings['device']}; {settings['steps'] - settings['steps'] // 2} timed steps in each "
        f"of {settings['rounds']} rounds. Measured on {machine_in_words(result)}.",
        "",
        "| method | ms per step | time over none, 95% interval | goal | peak memory | beyond none | tensors held |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    for arm in result["arms"]:
        ratio = arm["ratio"]
        memory = " | ".join(_megabytes(arm[name]) for name in ("peak_bytes", "more_bytes", "held_bytes"))
        interval = f"{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
        lines.append(f"| {arm['label']} | {arm['step_ms']:.1f} | {interval} | {_verdict(arm)} | {memory} |")
    return "\n".join(lines) + "\n"


def _verdict(arm: Mapping[str, Any]) -> str:
    """The goal and whether the whole interval is within it, beyond it, or neither."""
    goal, ratio = arm["goal"], arm["ratio"]
    if goal is None:
        return "-"
    verdict = "reached" if ratio["high"] <= goal else "missed" if ratio["low"] > goal else "undecided"
    return f"{goal:g}: {verdict}"


def _megabytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:,.0f} MB"


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("model", "layers", "batch_size", "steps", "rounds", "threads", "dtype", "device")
    return {name: getattr(arguments, name) for name in names}


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "methods_cost.json")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), metavar="METHOD", help="as compare takes them")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=48, help="of one training; the second half is timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default=dtype_here(), choices=("fp32", "bf16"), help="one for every arm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    for name, value in QUICK.items() if arguments.quick else ():
        setattr(arguments, name, value)
    if CONTROL not in arguments.arms:
        arguments.arms.insert(0, CONTROL)
    return arguments


if __name__ == "__main__":
    main()
