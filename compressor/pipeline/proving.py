"""What the stages from the student on do: figures, graphs, checks, bundle, latency; each writes one folder.

`compressor.pipeline.graph` says in which order and with which keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compressor.data.batches import tokenise
from compressor.data.splits import TaskData
from compressor.evaluation.figures import SPLITS, checkpoint_size, write_figures
from compressor.models.checkpoint import load_with_tokenizer
from compressor.models.predict import predict_logits
from compressor.models.teacher import teacher_logits
from compressor.pipeline.learning import PREDICTIONS_FILE

_NO_MODEL = {"parameters": None, "encoder_parameters": None, "bytes": None, "layers": None}


def measure_teacher(folder: Path, data: TaskData, teacher: Path, max_length: int) -> None:
    """Logits and figures of one task's teacher, a checkpoint or stored predictions."""
    tasks = {data.task.name: data}
    if (teacher / PREDICTIONS_FILE).is_file():
        write_figures(folder, tasks, lambda _data, split: np.load(teacher / f"{split}.npy"), _NO_MODEL)
        return

    def ask(task: TaskData, split: str) -> np.ndarray:
        texts = task.splits[split].texts
        return teacher_logits(teacher, texts, task.task, max_length=max_length, label=f"teacher on {split}")

    write_figures(folder, tasks, ask, checkpoint_size(teacher))


def measure_student(folder: Path, data: Mapping[str, TaskData], student: Path, max_length: int) -> None:
    """Logits and figures of a student or control, which answers every task."""
    model, tokenizer = load_with_tokenizer(student)

    def ask(task: TaskData, split: str) -> np.ndarray:
        tokens = tokenise(tokenizer, task.splits[split].texts, max_length)
        return predict_logits(model, tokens, task.task.name, pad_id=int(tokenizer.pad_token_id))

    write_figures(folder, data, ask, checkpoint_size(student))
