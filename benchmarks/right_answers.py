"""Which test texts each training of a comparison answers rightly: what a kept result needs for any pair of arms.

A comparison's own table has every arm against `none` and `kd`. Other pairs need the answers themselves, since an
interval is over seeds and test texts together; one bit per text is enough for an accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.comparison.answers import Scores
from compressor.comparison.arms import Arm
from compressor.comparison.cells import cell_folder
from compressor.comparison.statistics import resampled_scores
from compressor.data.prepare import prepare
from compressor.data.splits import TEST, TaskData
from compressor.evaluation.figures import read_logits
from compressor.recipe_file import load_recipe
from serving.answers import decide

RIGHT = "right"
"""Key of a kept result: arm -> seed -> `pack` of its test texts in their order."""

Right = NDArray[np.bool_]


def pack(right: Right) -> str:
    """A bit per text [texts], in hexadecimal; the last byte is filled with zeros."""
    return np.packbits(right).tobytes().hex()


def unpack(packed: str, num_texts: int) -> Right:
    """The inverse of `pack`."""
    bits = np.frombuffer(bytes.fromhex(packed), dtype=np.uint8)
    return np.unpackbits(bits, count=num_texts).astype(bool)


def read_right(comparison: Path, result: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What to keep under `RIGHT`, from a comparison's folder.

    Args:
        comparison: folder of `compressor compare`, of one task whose metric is accuracy.
        result: its result.

    Raises:
        ValueError: a training's answers do not have the score that the result says.
    """
    (task,) = result["tasks"]
    data: TaskData | None = None
    found: dict[str, dict[str, str]] = {}
    for arm in result["arms"]:
        for seed, score in arm["tasks"][task]["per_seed"].items():
            folder = cell_folder(comparison, Arm(arm["label"], {}), seed)
            if data is None:  # every cell has the same test rows
                data = prepare(load_recipe(folder / "recipe.yaml").tasks)[task]
            right = decide(read_logits(folder / "figures", task, TEST), data.task) == data.splits[TEST].labels
            if not np.isclose(right.mean(), score):
                raise ValueError(f"{folder} has {right.mean():.4f} of the texts right, the result says {score:.4f}")
            found.setdefault(arm["label"], {})[seed] = pack(right)
    return found


def scores_of(result: Mapping[str, Any]) -> dict[str, Scores]:
    """Per arm of a kept result its accuracy, in points, with every seed and on common resamples of the test texts."""
    (task,) = result["tasks"]
    num_texts = result["tasks"][task]["rows"][TEST]
    found = {}
    for arm, by_seed in result[RIGHT].items():
        seeds = tuple(sorted(map(int, by_seed)))
        right = [unpack(by_seed[str(seed)], num_texts) for seed in seeds]
        resampled = resampled_scores(_points, right[0], right)
        found[arm] = Scores(seeds, np.array([_points(one, one) for one in right]), resampled)
    return found


def _points(_: Right, right: Right) -> float:
    return 100.0 * float(right.mean())
