"""The flatness stage of a student trained by swa: the loss around its average and its last iterate, and both on test.

The survey runs on a few rows per split, because it asks for the loss some 170 times; the figures on test use all
rows. `compressor.evaluation.flatness` holds the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from compressor.data.batches import Tokens, tokenise
from compressor.data.splits import TEST, TRAIN, TaskData
from compressor.distillation.training import HISTORY_FILE
from compressor.evaluation.flatness import AVERAGE, LAST, Surroundings, Survey, losses_on_line, survey_around
from compressor.evaluation.metrics import evaluate
from compressor.models.checkpoint import load_checkpoint, load_with_tokenizer
from compressor.models.predict import predict_logits
from compressor.models.task_model import TaskModel, num_encoder_parameters
from compressor.pipeline.stages import read_json, write_json
from compressor.progress import progress_bar
from compressor.tasks.registry import TASKS, gold_losses
from export.statistics import paired_difference
from serving.answers import decide
from serving.manifest import TaskSpec

FLATNESS_FILE = "flatness.json"
SPLITS = (TRAIN, TEST)
# One evaluation of one split: 28 texts of 40 tokens through three layers of MiniLM, the size of the demo's student.
_OPERATIONS = 2 * 5.5e6 * 40 * 28
_FEWEST_ROWS, _MOST_ROWS = 16, 256


@dataclass(frozen=True)
class Sample:
    """The rows of one task and one split that the survey reads."""

    task: TaskSpec
    tokens: Tokens
    labels: np.ndarray

    def loss(self, model: nn.Module, pad_id: int) -> float:
        """Mean hard loss against the gold labels, float64 over float32 logits."""
        logits = predict_logits(model, self.tokens, self.task.name, pad_id=pad_id)
        return float(gold_losses(torch.from_numpy(logits), self.labels, self.task).double().mean())


def centres_of(student: Path) -> dict[str, Path]:
    """Checkpoints of the `average` and of the `last` iterate that a training by swa left in a student's folder."""
    kept = read_json(student / HISTORY_FILE)["swa"]["kept"]
    return {AVERAGE: student if kept == AVERAGE else student / AVERAGE, LAST: student / LAST}


def measure_flatness(
    folder: Path, data: Mapping[str, TaskData], centres: Mapping[str, Path], max_length: int, survey: Survey
) -> None:
    """Write flatness.json.

    Args:
        folder: to write.
        data: the tasks.
        centres: checkpoints of the `average` and of the `last` iterate.
        max_length: tokens per text.
        survey: directions, distances, positions.
    """
    average, tokenizer = load_with_tokenizer(centres[AVERAGE])
    last = load_checkpoint(centres[LAST])
    samples = _samples(data, average, tokenizer, max_length=max_length, seed=survey.seed)
    pad_id = int(tokenizer.pad_token_id)
    around, line = _surveyed(average, last, samples, pad_id=pad_id, survey=survey)
    write_json(
        folder / FLATNESS_FILE,
        {
            "num_directions": survey.num_directions,
            "seed": survey.seed,
            "rows": {
                task: {split: len(part.labels) for split, part in parts.items()} for task, parts in samples.items()
            },
            "distances": survey.distances,
            **{name: _by_split(found) for name, found in around.items()},
            "line": {"positions": survey.positions, **dict(zip(SPLITS, _rounded(line.T), strict=True))},
            "tasks": {
                name: _on_test(task, {AVERAGE: average, LAST: last}, tokenizer, max_length)
                for name, task in data.items()
            },
        },
    )


def _samples(
    data: Mapping[str, TaskData],
    model: TaskModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    seed: int,
) -> dict[str, dict[str, Sample]]:
    """Per task and split, rows drawn by the seed, the same for both centres."""
    found: dict[str, dict[str, Sample]] = {}
    for name, task in data.items():
        found[name] = {}
        for split in SPLITS:
            rows = task.splits[split]
            order = np.random.default_rng(seed).permutation(len(rows))[:_MOST_ROWS]
            lengths = tokenise(tokenizer, rows.select(order).texts, max_length).lengths
            chosen = rows.select(order[: num_rows(num_encoder_parameters(model), float(lengths.mean()))])
            if chosen.labels is None:
                raise RuntimeError(f"the {split} split of task '{name}' has no labels")
            found[name][split] = Sample(task.task, tokenise(tokenizer, chosen.texts, max_length), chosen.labels)
    return found


def num_rows(encoder_parameters: int, tokens_per_text: float) -> int:
    """Rows per split, so that a larger model or longer texts take no longer: 28 for the demo's student."""
    affordable = _OPERATIONS / (2 * encoder_parameters * max(1.0, tokens_per_text))
    return int(min(_MOST_ROWS, max(_FEWEST_ROWS, affordable)))


def _surveyed(
    average: TaskModel, last: TaskModel, samples: Mapping[str, Mapping[str, Sample]], *, pad_id: int, survey: Survey
) -> tuple[dict[str, Surroundings], np.ndarray]:
    """The surroundings of both centres and the line between them; the average's model is moved and put back."""
    total = 2 + 4 * survey.num_directions * len(survey.radii) + len(survey.positions)
    weights = {
        AVERAGE: {name: tensor.clone() for name, tensor in average.state_dict().items()},
        LAST: last.state_dict(),
    }
    with progress_bar("flatness", total) as bar:
        done = iter(range(1, total + 1))

        def losses_of(model: nn.Module) -> np.ndarray:
            bar.update(next(done))
            parts = [[task[split].loss(model, pad_id) for split in SPLITS] for task in samples.values()]
            mean: np.ndarray = np.mean(parts, axis=0)
            return mean

        around = survey_around(average, weights[AVERAGE], weights[LAST], losses_of, survey)
        line = losses_on_line(average, weights[AVERAGE], weights[LAST], losses_of, survey.positions)
    return around, line


def _by_split(found: Surroundings) -> dict[str, Any]:
    rise = np.moveaxis(found.rise, -1, 0)
    return {
        "loss": dict(zip(SPLITS, _rounded(found.loss), strict=True)),
        "rise": dict(zip(SPLITS, _rounded(rise), strict=True)),
    }


def _rounded(values: np.ndarray) -> Any:
    """Nested lists with six significant digits: more would be digits of float32."""
    nested = values.tolist()

    def cut(value: Any) -> Any:
        return [cut(item) for item in value] if isinstance(value, list) else float(f"{value:.6g}")

    return cut(nested)


def _on_test(
    data: TaskData, models: Mapping[str, TaskModel], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Any]:
    """The judged metric of both centres on all test rows, and average minus last on the same rows."""
    rows, task = data.splits[TEST], data.task
    if rows.labels is None:
        raise RuntimeError(f"the test split of task '{task.name}' has no labels")
    tokens = tokenise(tokenizer, rows.texts, max_length)
    pad_id = int(tokenizer.pad_token_id)
    logits = {name: predict_logits(model, tokens, task.name, pad_id=pad_id) for name, model in models.items()}
    metric = TASKS[task.type].metrics[task.metric]
    answers = {name: decide(part, task) for name, part in logits.items()}
    value, low, high = paired_difference(metric, rows.labels, answers[LAST], answers[AVERAGE])
    figures = {
        name: msgspec.to_builtins(evaluate(task, part, rows.labels)[task.metric]) for name, part in logits.items()
    }
    return {"metric": task.metric, **figures, "difference": {"value": value, "low": low, "high": high}}
