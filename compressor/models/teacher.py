"""Teachers that are not trained here: a fine-tuned checkpoint as it is, or stored predictions.

Whatever the teacher, its outputs are matched to the data's labels by name, never by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from compressor.data.batches import tokenise
from compressor.data.files import read_table
from compressor.models.checkpoint import TASKS_FILE, load_with_tokenizer, read_tasks, save_checkpoint, with_tasks
from compressor.models.initialise import finetuned_model, load_tokenizer
from compressor.models.predict import predict_logits
from compressor.progress import progress_bar
from compressor.recipe import TeacherSettings
from serving.errors import UserError
from serving.hashing import hash_file
from serving.manifest import TaskSpec

_SMALLEST_PROBABILITY = 1e-6


def import_teacher(folder: Path, settings: TeacherSettings, task: TaskSpec) -> None:
    """Write a fine-tuned checkpoint, with its own label order, as one of this project's.

    Raises:
        UserError: it cannot be loaded, answers another type of task, or lacks a label of the data.
    """
    name = str(settings.model)
    model, labels = finetuned_model(name)
    own = model.tasks[0]
    width = max(len(own.labels), 1)
    if task.type == "regression":
        if width != 1:
            raise UserError(
                f"the teacher '{name}' has {width} outputs, but task '{task.name}' is a regression with one."
            )
        spec = msgspec.structs.replace(task, range=_trained_range(name, task))
    else:
        spec = msgspec.structs.replace(task, labels=_output_names(name, settings.labels or labels, width, task))
    save_checkpoint(folder, with_tasks(model, [spec]), load_tokenizer(name))


def _trained_range(model: str, task: TaskSpec) -> tuple[float, float]:
    """The range that a checkpoint's values are in units of: its own if this program trained it, else the data's."""
    if not (Path(model) / TASKS_FILE).is_file():
        return task.range
    known = [own.range for own in read_tasks(Path(model)) if own.type == "regression"]
    return known[0] if len(known) == 1 else task.range


def _output_names(model: str, names: Sequence[str] | None, width: int, task: TaskSpec) -> tuple[str, ...]:
    if names is None and set(task.labels) == {str(index) for index in range(width)}:
        return tuple(str(index) for index in range(width))  # LABEL_3 is the label '3' of numbered data
    if names is None:
        raise UserError(
            f"the checkpoint '{model}' only numbers its {width} outputs, and labels are matched by name. "
            f"Set teacher.labels to their names in order, from: {', '.join(task.labels)}."
        )
    if len(names) != width:
        raise UserError(f"teacher.labels names {len(names)} outputs, but '{model}' has {width}.")
    missing = [label for label in task.labels if label not in names]
    if missing:
        raise UserError(
            f"the teacher '{model}' does not know the label {missing[0]!r} of task '{task.name}' "
            f"(it knows: {', '.join(names)}). Use a teacher trained on these labels, or set teacher.labels."
        )
    return tuple(names)


def teacher_logits(
    folder: Path,
    texts: Sequence[tuple[str, ...]],
    task: TaskSpec,
    *,
    max_length: int,
    label: str = "teacher targets",
) -> np.ndarray:
    """Logits of a teacher checkpoint over texts, its columns in the data's label order.

    Args:
        folder: a checkpoint of this project that answers the task, alone or among others.
        texts: to answer.
        task: whose labels give the order of the columns.
        max_length: tokens per text, by the teacher's own tokenizer.
        label: what the progress bar says.

    Returns:
        float32 [rows, outputs].
    """
    model, tokenizer = load_with_tokenizer(folder)
    own = next(known for known in model.tasks if known.name == task.name)
    tokens = tokenise(tokenizer, texts, max_length)
    with progress_bar(label, len(texts)) as bar:
        logits = predict_logits(model, tokens, own.name, pad_id=int(tokenizer.pad_token_id), advance=bar.update)
    if task.type == "regression":
        return _in_range(logits, own.range, task.range)
    return logits[:, [own.labels.index(name) for name in task.labels]]


def _in_range(logits: np.ndarray, own: tuple[float, float], wanted: tuple[float, float]) -> np.ndarray:
    """Outputs in units of one range of labels as outputs in units of another."""
    if own == wanted:
        return logits
    values = own[0] + logits.astype(np.float64) * (own[1] - own[0])
    return ((values - wanted[0]) / (wanted[1] - wanted[0])).astype(np.float32)


def stored_logits(path: Path, texts: Sequence[tuple[str, ...]], task: TaskSpec, columns: Sequence[str]) -> np.ndarray:
    """Logits that give back stored teacher probabilities, matched to the texts by their content.

    Args:
        path: a table with the text columns and one column per label (regression: the column `value`, in the
            labels' own units).
        texts: to look up.
        task: whose labels give the order of the columns.
        columns: names of the text columns.

    Returns:
        float32 [rows, outputs]; rows that the table does not hold are NaN.

    Raises:
        UserError: a column is missing or a probability is not within [0, 1].
    """
    frame = read_table(path).frame
    wanted = list(task.labels) or ["value"]
    missing = [name for name in (*columns, *wanted) if name not in frame.columns]
    if missing:
        raise UserError(
            f"the teacher predictions '{path}' have no column '{missing[0]}'. Expected the columns "
            f"{', '.join((*columns, *wanted))}; it has {', '.join(map(str, frame.columns))}."
        )
    try:
        values = frame[wanted].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise UserError(f"the teacher predictions '{path}' hold something that is no number ({error}).") from error
    keys = [_key(map(str, row)) for row in frame[list(columns)].itertuples(index=False)]
    known = dict(zip(keys, _to_logits(values, task, path), strict=True))
    absent = np.full(task.num_outputs, np.nan)
    return np.array([known.get(_key(text), absent) for text in texts], dtype=np.float32)


def predictions_fingerprint(path: Path) -> str:
    """Hash of a file of stored predictions; UserError when it is not there."""
    if not path.is_file():
        raise UserError(
            f"no file '{path}' of teacher predictions. Give a table with the text and one column per label as "
            "teacher.predictions."
        )
    return hash_file(path)


def _key(text: Iterable[str]) -> tuple[str, ...]:
    """Texts that differ in the width of white space alone are the same."""
    return tuple(" ".join(part.split()) for part in text)


def _to_logits(values: np.ndarray, task: TaskSpec, path: Path) -> np.ndarray:
    if task.type == "regression":
        low, high = task.range
        return (values - low) / (high - low)
    if not np.all((values >= 0.0) & (values <= 1.0)):
        raise UserError(f"the teacher predictions '{path}' are not all within [0, 1]. Store probabilities, not logits.")
    clipped = np.clip(values, _SMALLEST_PROBABILITY, 1.0 - _SMALLEST_PROBABILITY)
    logits: np.ndarray = np.log(clipped)
    return logits if task.type == "classification" else logits - np.log1p(-clipped)
