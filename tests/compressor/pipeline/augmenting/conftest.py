"""Toys of the methods that add texts: rows of two domains, recipes, a store that a file's tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compressor.pipeline.graph import Pipeline
from compressor.pipeline.stages import Stage, StageStore, needed_for, run_stages
from compressor.recipe import Recipe

FILLERS = ["please", "help", "now", "my", "never", "thanks"]

TOPICS = {"billing": ["money", "refund", "card"], "delivery": ["late", "arrived", "order"]}

TRAINING = {"steps": 6, "batch_size": 8, "dtype": "fp32", "threads": 1, "learning_rate": 1e-3}

SHORT = "rounds=1:per_row=2:min_confidence=0:min_margin=0:max_edit_ratio=1:mlm_steps=6"

LEARNED = f"l2a:{SHORT}:episodes=6:updates=2:episode_size=8:full_every=3"


@pytest.fixture(scope="session")
def model(masked_model: Path) -> str:
    """A tiny masked language model over the toy words."""
    return str(masked_model)


def rows(number: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for row in range(number):
        topic = list(TOPICS)[row % 2]
        words = [*rng.choice(FILLERS, size=6), *rng.choice(TOPICS[topic], size=2)]
        value = float(rng.integers(0, 4)) / 2 + 3.0 * (row % 2)
        flags = ["angry", "polite"] if row % 2 else ["calm"]
        text, other = " ".join(words), " ".join(rng.choice(FILLERS, size=3))
        found.append({"text": text, "other": other, "topic": topic, "urgency": value, "flags": flags})
    return found


def write_rows(path: Path, number: int, seed: int) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows(number, seed)) + "\n")
    return str(path)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Rows of the target and of its source."""
    folder = tmp_path_factory.mktemp("rows")
    return {"target": write_rows(folder / "target.jsonl", 90, 1), "source": write_rows(folder / "source.jsonl", 40, 2)}


Make = Callable[..., Recipe]


@pytest.fixture(scope="session")
def recipe(files: dict[str, str], model: str) -> Make:
    """A recipe of one task with a source; keys of its first level and of its task replaced."""

    def make(method: object, task: dict[str, Any] | None = None, **changes: Any) -> Recipe:
        topic = {"data": files["target"], "text": "text", "label": "topic", "source": {"data": files["source"]}}
        values = {
            "name": "toy",
            "tasks": {"topic": {key: value for key, value in {**topic, **(task or {})}.items() if value is not None}},
            "teacher": {"model": model, "steps": 40, "learning_rate": 3e-3},
            "student": {"layers": 1},
            "training": TRAINING,
            "max_length": 24,
            "method": method,
        }
        return Recipe.model_validate({**values, **changes})

    return make


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> StageStore:
    """Shared, so that teachers are trained once."""
    return StageStore(tmp_path_factory.mktemp("stages"))


def trained(recipe: Recipe, store: StageStore) -> Pipeline:
    pipeline = Pipeline(recipe, store)
    run_stages(store, needed_for(pipeline.student))
    return pipeline


def weights(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    return load_file(pipeline.path(pipeline.student) / "model.safetensors")


def candidates_stage(pipeline: Pipeline, task: str = "topic") -> Stage:
    return pipeline.added_stages(pipeline.recipe.method)[task]["candidates"]
