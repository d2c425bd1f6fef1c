"""Where a bundle comes from: names and hashes of data and models, recorded when it is made, found again to verify it.

Everything here is a function of finished stages and the recipe, so that a run can be asked twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from compressor.data.splits import VALIDATION, TaskData
from compressor.recipe import Recipe
from export.fingerprint import hash_rows, hash_value
from export.sample import Sample
from serving.hashing import hash_file

WEIGHT_SUFFIXES = (".safetensors", ".npy")
"""Files that hold what was learned: weights, or a teacher's stored predictions."""

_RECORDED_VERSIONS = ("compressor-toolchain", "torch", "transformers", "onnx", "onnxruntime")


def data_facts(
    data: Mapping[str, TaskData], names: Mapping[str, str], *, measured_on: str = VALIDATION
) -> dict[str, dict[str, Any]]:
    """Per task its data's name, and rows and hash of every split.

    Args:
        data: the tasks.
        names: per task, what the recipe calls its data.
        measured_on: the split that artifacts are measured on.
    """
    return {
        task: {
            "name": names[task],
            "measured_on": measured_on,
            "splits": {
                split: {"rows": len(rows), "sha256": hash_rows(rows.texts, rows.labels)}
                for split, rows in found.splits.items()
            },
        }
        for task, found in data.items()
    }


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
            "splits": {"given": {"rows": len(sample.texts), "sha256": hash_rows(sample.texts, sample.labels)}},
        }
        for task, sample in samples.items()
    }


def model_facts(student: Path, teachers: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """The hash of what the student and every teacher have learned.

    Args:
        student: its checkpoint.
        teachers: per task, the checkpoints or stored predictions that taught it.
    """
    members = {
        f"teacher of {task}" + (f" ({number})" if len(folders) > 1 else ""): folder
        for task, folders in teachers.items()
        for number, folder in enumerate(folders, start=1)
    }
    return {name: hash_weights(folder) for name, folder in {"student": student, **members}.items()}


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
