"""What is said of a torch model: its logits on the evaluation splits, its figures, its size.

A stage of its own, so that the test split is read once per model, after everything was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from compressor.data.splits import TEST, VALIDATION, TaskData
from compressor.evaluation.metrics import confusion, evaluate, per_class
from compressor.models.checkpoint import load_checkpoint
from compressor.models.task_model import num_encoder_parameters, num_parameters
from compressor.pipeline.stages import write_json

FIGURES_FILE = "figures.json"
SPLITS = (VALIDATION, TEST)
SUMMED_SIZES = ("parameters", "encoder_parameters", "bytes")

LogitsOf = Callable[[TaskData, str], np.ndarray]


def write_figures(folder: Path, data: Mapping[str, TaskData], logits_of: LogitsOf, size: Mapping[str, Any]) -> None:
    """Ask a model for its logits on validation and test, and write them with their figures.

    Args:
        folder: gets `<task>.<split>.npy` and `figures.json`.
        data: the tasks.
        logits_of: (task, split) -> [rows, outputs]; rows of NaN are texts that it has no answer for.
        size: facts about the model that are written beside the figures.
    """
    tasks = {}
    for name, task_data in data.items():
        for split in SPLITS:
            save_logits(folder, name, split, logits_of(task_data, split))
        tasks[name] = task_figures(task_data, read_logits(folder, name, TEST))
    write_json(folder / FIGURES_FILE, {**size, "tasks": tasks})


def save_logits(folder: Path, task: str, split: str, logits: np.ndarray) -> None:
    """Store a model's logits on one split, [rows, outputs]."""
    np.save(folder / f"{task}.{split}.npy", logits)


def read_logits(folder: Path, task: str, split: str) -> np.ndarray:
    """Logits that `save_logits` stored, float32 [rows, outputs]."""
    logits: np.ndarray = np.load(folder / f"{task}.{split}.npy")
    return logits


def task_figures(data: TaskData, logits: np.ndarray) -> dict[str, Any] | None:
    """Every metric of one task on test with its interval, and the figures per class.

    Returns:
        None when some texts have no answer (stored predictions that do not cover test).
    """
    labels = data.splits[TEST].labels
    if labels is None:
        raise RuntimeError(f"the test split of task '{data.task.name}' has no labels")
    if np.isnan(logits).any():
        return None
    metrics = evaluate(data.task, logits, labels)
    judged = metrics[data.task.metric]
    return {
        **msgspec.to_builtins(judged),
        "metrics": {name: msgspec.to_builtins(interval) for name, interval in metrics.items()},
        "per_class": per_class(data.task, logits, labels),
        "confusion": confusion(data.task, logits, labels) if data.task.type == "classification" else [],
    }


def ensemble_size(folders: Sequence[Path]) -> dict[str, int | None]:
    """The size of one or several models that answer together: sums, the layers of one, and how many there are."""
    sizes = [checkpoint_size(folder) for folder in folders]
    layers = {size["layers"] for size in sizes}
    return {
        **{name: sum(size[name] for size in sizes) for name in SUMMED_SIZES},
        "layers": layers.pop() if len(layers) == 1 else None,
        "members": len(sizes),
    }


def checkpoint_size(folder: Path) -> dict[str, int]:
    """Parameters, parameters without embeddings, and bytes of a checkpoint's weights."""
    model = load_checkpoint(folder)
    return {
        "parameters": num_parameters(model),
        "encoder_parameters": num_encoder_parameters(model),
        "bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "layers": int(model.config.num_hidden_layers),
    }
