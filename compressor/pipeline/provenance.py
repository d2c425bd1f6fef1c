"""Where a bundle comes from: names and hashes of data and models, recorded when it is made, found again to verify it.

Everything here is a function of finished stages and the recipe, so that a run can be asked twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from compressor.data.splits import ADDED, SOURCE, VALIDATION, TaskData
from compressor.models.resolve import checkpoint_fingerprint
from compressor.recipe import Recipe
from export.fingerprint import hash_rows, hash_value
from export.sample import Sample
from serving.hashing import hash_file

WEIGHT_SUFFIXES = (".safetensors", ".npy")
"""Files that hold what was learned: weights, or a teacher's stored predictions."""

_RECORDED_VERSIONS = ("compressor-toolchain", "torch", "transformers", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Added:
    """Texts that a method added to a task.

    Attributes:
        method: with its knobs, as the recipe has it.
        texts: that the student read beside the task's own.
    """

    method: str
    texts: Sequence[tuple[str, ...]]


def data_facts(
    data: Mapping[str, TaskData],
    names: Mapping[str, str],
    *,
    measured_on: str = VALIDATION,
    added: Mapping[str, Added] | None = None,
) -> dict[str, dict[str, Any]]:
    """Per task its data's name, and rows and hash of every split; a source and added texts have names of their own.

    Args:
        data: the tasks.
        names: per task, what the recipe calls its data.
        measured_on: the split that artifacts are measured on.
        added: per task that gets texts, what a method made for the student.
    """
    return {
        task: {
            "name": names[task],
            "measured_on": measured_on,
            "splits": _splits(found, (added or {}).get(task)),
        }
        for task, found in data.items()
    }


def _splits(data: TaskData, added: Added | None) -> dict[str, dict[str, Any]]:
    found = {name: _split_facts(rows.texts, rows.labels) for name, rows in data.splits.items()}
    if SOURCE in found:
        found[SOURCE]["name"] = data.sources[SOURCE]["name"]
    if added is not None:
        found[ADDED] = {**_split_facts(added.texts, None), "name": added.method}
    return found


def _split_facts(texts: Sequence[tuple[str, ...]], labels: NDArray[Any] | None) -> dict[str, Any]:
    return {"rows": len(texts), "sha256": hash_rows(texts, labels)}


def sample_facts(samples: Mapping[str, Sample], names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Per task what artifacts were measured on, where nothing else is known of its data.

    Args:
        samples: the labelled texts.
        names: per task, where they come from.
    """
    return {
        task: {
            "name": names[task],
            "measured_on": "given",
            "splits": {"given": _split_facts(sample.texts, sample.labels)},
        }
        for task, sample in samples.items()
    }


def model_facts(
    student: Path, teachers: Mapping[str, Sequence[Path]], masked_lm: Path | str | None = None
) -> dict[str, str]:
    """The hash of what the student, every teacher and the masked language model have learned.

    Args:
        student: its checkpoint.
        teachers: per task, the checkpoints or stored predictions that taught it.
        masked_lm: that refilled texts: the folder of an adapted one, or the name of a checkpoint; None without.
    """
    members = {
        f"teacher of {task}" + (f" ({number})" if len(folders) > 1 else ""): folder
        for task, folders in teachers.items()
        for number, folder in enumerate(folders, start=1)
    }
    found = {name: hash_weights(folder) for name, folder in {"student": student, **members}.items()}
    if isinstance(masked_lm, Path):
        found["masked language model"] = hash_weights(masked_lm)
    elif masked_lm is not None:
        found["masked language model"] = checkpoint_fingerprint(masked_lm)
    return found


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """The recipe, its hash, and what it says the model is for."""
    plain = recipe.model_dump(mode="json")
    return {"intended_use": recipe.intended_use, "recipe": plain, "recipe_sha256": hash_value(plain)}


def recorded_versions() -> dict[str, str]:
    """Versions of the programs that make a bundle."""
    return {name: metadata.version(name) for name in _RECORDED_VERSIONS}


def hash_weights(folder: Path) -> str:
    """One sha256 over the names and contents of a folder's weights."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES):
        digest.update(f"{path.name} {hash_file(path)}\n".encode())
    return digest.hexdigest()
