"""Does SDA make fine-tuning more stable over data orders? The stability test of its paper, in the small.

Balanced SNLI examples, the same initial weights, many data orders; per order the control (gold labels) and SDA.
Reported are the mean accuracies on test with their paired difference over orders and texts, and the ratio of the
standard deviations over the orders, control over SDA, with a percentile interval from resampled orders and the p of
Brown and Forsythe's test (which takes the two samples as independent). With 10 orders a ratio below about 1.8 cannot be
told from 1. Nothing is asserted.

Source: Xu, Qiu, Zhou and Huang (2020), arXiv:2002.10345, stability test (BERT-base, more data).

    python -m benchmarks.sda_stability --data DATA --work runs/sda_stability --threads 1

Every cell is saved when it is done; the same command continues. On one thread, at 100 examples/s for two layers on 25
tokens (the control; SDA about 1.4 times as long): 20 orders x 1,500 rows x 2 epochs x 2.4 / 100 = 24 minutes, and 5 for
loading and the evaluations. One epoch is too few: the student then answers by chance, and a spread around chance says
nothing. Two processes share the work when one begins with `--first-order 10` (and another `--output` and `--docs`); a
last call of the whole gathers what both have done.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks.cells import (
    DOCS,
    HERE,
    Answers,
    draw_rows,
    dtype_here,
    machine,
    machine_in_words,
    put_block,
    train_and_ask,
)
from compressor.comparison.statistics import paired_difference, resampled_scores
from compressor.data.splits import VALIDATION
from compressor.distillation.presets import label_of, parse_method_text
from compressor.pipeline.stages import StageStore, write_json
from compressor.progress import announce
from compressor.recipe import Recipe
from compressor.recipe_file import build_recipe
from compressor.tasks.registry import TASKS
from export.statistics import bootstrap_interval

NAME = "sda-stability"
CONTROL = "none"
CHOICE_ORDER = 1_000_000
QUICK = {"rows": 24, "orders": 2, "epochs": 1, "layers": 1, "evaluation_rows": 24, "validation_rows": 24}
FEWEST_FOR_SPREAD = 3


def main(given: Sequence[str] | None = None) -> None:
    """Train what is missing, order by order, and write the result after every order."""
    arguments = _parse(given)
    torch.set_num_threads(arguments.threads)
    methods = {CONTROL: parse_method_text(CONTROL), "sda": parse_method_text(arguments.method)}
    sizes = {"train": arguments.rows, "validation": arguments.validation_rows, "test": arguments.evaluation_rows}
    called = f"snli-{'-'.join(str(count) for count in sizes.values())}"
    data = draw_rows(arguments.data / "snli", arguments.work / called, sizes, balanced_by="label")
    store = StageStore(arguments.work / "stages")
    arguments.learning_rate = choose_learning_rate(arguments, data, store)
    answers: dict[str, list[Answers]] = {arm: [] for arm in methods}
    for order in range(arguments.first_order, arguments.orders):
        for arm, method in methods.items():
            announce(f"order {order + 1} of {arguments.orders}: {arm}")
            _, found = train_and_ask(_recipe(arguments, data, method, order), store)
            answers[arm].append(found)
        result = {"settings": _settings(arguments), **summarise(answers), **machine()}
        write_json(arguments.output, result)
    put_block(arguments.docs, NAME, markdown(result))
    print(markdown(result))


def choose_learning_rate(arguments: argparse.Namespace, data: Path, store: StageStore) -> float:
    """The control's best rate on validation, in a data order that takes no part in the test; both arms get it."""
    rates: list[float] = arguments.learning_rates
    if len(rates) == 1:
        return rates[0]
    scores: dict[float, float] = {}
    for rate in rates:
        arguments.learning_rate = rate
        announce(f"choosing the learning rate on the control: {rate:g}")
        recipe = _recipe(arguments, data, parse_method_text(CONTROL), CHOICE_ORDER)
        scores[rate] = train_and_ask(recipe, store)[1].score(VALIDATION)
    return max(scores, key=lambda rate: scores[rate])


def _recipe(arguments: argparse.Namespace, data: Path, method: Mapping[str, Any], order: int) -> Recipe:
    """The student of one cell: the same initial weights (seed 0) for every order."""
    columns = {"text": ["text_a", "text_b"], "label": "label", "metric": "accuracy"}
    return build_recipe(
        {
            "name": NAME,
            "tasks": {"entailment": {"data": str(data), **columns}},
            "student": {"model": arguments.model, "layers": arguments.layers},
            "method": dict(method),
            "training": {
                "epochs": arguments.epochs,
                "learning_rate": arguments.learning_rate,
                "batch_size": arguments.batch_size,
                "threads": arguments.threads,
                "dtype": arguments.dtype,
            },
            "seed": 0,
            "order_seed": order,
        }
    )


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = (
        "model", "rows", "epochs", "batch_size", "layers", "learning_rate", "threads", "dtype", "evaluation_rows",
        "validation_rows", "learning_rates",
    )  # fmt: skip
    found = {name: getattr(arguments, name) for name in names}
    return {**found, "method": label_of(parse_method_text(arguments.method))}


def summarise(answers: Mapping[str, Sequence[Answers]]) -> dict[str, Any]:
    """Both arms' accuracies over the finished orders, their difference and the ratio of their spreads."""
    scores = {arm: np.array([cell.score() for cell in cells]) for arm, cells in answers.items()}
    result: dict[str, Any] = {"orders": len(scores[CONTROL]), "accuracy": {a: s.tolist() for a, s in scores.items()}}
    result["mean"] = {arm: float(found.mean()) for arm, found in scores.items()}
    result["difference"] = _difference(answers, scores)
    if len(scores[CONTROL]) >= FEWEST_FOR_SPREAD:
        result |= spreads(scores[CONTROL], scores["sda"])
    return result


def _difference(answers: Mapping[str, Sequence[Answers]], scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
    first = answers[CONTROL][0]
    metric = TASKS[first.data.task.type].metrics[first.data.task.metric]
    drawn = {
        arm: resampled_scores(metric, first.test_labels, [cell.test_answers for cell in cells])
        for arm, cells in answers.items()
    }
    found = paired_difference(scores["sda"] - scores[CONTROL], drawn["sda"] - drawn[CONTROL])
    return {"value": found.value, "low": found.low, "high": found.high, "p_value": found.p_value}


def spreads(control: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Standard deviations over the orders, their ratio with its 95% interval, and Brown and Forsythe's p.

    Args:
        control: [orders] accuracies.
        other: [orders], of the same orders.
    """
    ratio, low, high = bootstrap_interval(_ratio_of_spreads, control, other, samples=5000)
    return {
        "standard_deviation": {CONTROL: float(control.std(ddof=1)), "sda": float(other.std(ddof=1))},
        "ratio": {"value": ratio, "low": low, "high": high},
        "brown_forsythe_p": float(stats.levene(control, other, center="median").pvalue),
    }


def _ratio_of_spreads(control: np.ndarray, other: np.ndarray) -> float:
    """NaN where a resample repeats one order only."""
    below = float(other.std(ddof=1))
    return float(control.std(ddof=1)) / below if below > 0 else float("nan")


def markdown(result: Mapping[str, Any]) -> str:
    """The result for people."""
    settings, mean, found = result["settings"], result["mean"], result["difference"]
    lines = [
        f"{result['orders']} data orders, {settings['rows']:,} balanced SNLI pairs, {settings['layers']} layers, "
        f"{settings['epochs']} epochs, the same initial weights; accuracy on {settings['evaluation_rows']:,} test "
        f"pairs. Learning rate {settings['learning_rate']:g}, the control's best of "
        f"{', '.join(f'{rate:g}' for rate in settings['learning_rates'])} on {settings['validation_rows']} validation "
        f"pairs. Measured on {machine_in_words(result)}.",
        "",
        "| | mean accuracy | standard deviation over orders |",
        "|---|--:|--:|",
    ]
    deviations = result.get("standard_deviation", {})
    for arm, label in ((CONTROL, "none"), ("sda", settings["method"])):
        spread = f"{deviations[arm]:.4f}" if arm in deviations else "-"
        lines.append(f"| {label} | {mean[arm]:.4f} | {spread} |")
    p_value = "" if found["p_value"] is None else f", p {found['p_value']:.3f}"
    lines += [
        "",
        f"Difference of the means, over orders and texts: {found['value']:+.4f} [{found['low']:+.4f}, "
        f"{found['high']:+.4f}]{p_value}.",
    ]
    if "ratio" in result:
        ratio = result["ratio"]
        lines[-1] += (
            f" Ratio of the standard deviations, control over SDA: {ratio['value']:.2f} [{ratio['low']:.2f}, "
            f"{ratio['high']:.2f}], Brown-Forsythe p {result['brown_forsythe_p']:.3f}."
        )
    return "\n".join(lines) + "\n"


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder that holds snli/train.jsonl and so on")
    parser.add_argument("--work", type=Path, default=Path("runs/sda_stability"), help="keeps rows and trainings")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "sda_stability.json")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--method", default="sda", help="as compare takes it, e.g. sda:k=all")
    parser.add_argument("--rows", type=int, default=1500, help="training pairs, equal numbers per label")
    parser.add_argument("--orders", type=int, default=20, help="data orders")
    parser.add_argument("--first-order", type=int, default=0, help="to share the work between processes")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument(
        "--learning-rates", type=float, nargs="+", default=[2e-4, 4e-4, 8e-4], help="the control chooses on validation"
    )
    parser.add_argument("--validation-rows", type=int, default=400, help="pairs to choose the learning rate on")
    parser.add_argument("--evaluation-rows", type=int, default=1000, help="test pairs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default=dtype_here(), choices=("fp32", "bf16"), help="one for every cell")
    parser.add_argument("--quick", action="store_true", help="to see that it runs; figures mean nothing")
    arguments = parser.parse_args(given)
    for name, value in QUICK.items() if arguments.quick else ():
        setattr(arguments, name, value)
    return arguments


if __name__ == "__main__":
    main()
